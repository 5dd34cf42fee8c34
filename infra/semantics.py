"""Names of span attributes and kinds, in one place, as OpenTelemetry's semantic conventions spell them.

Sources: https://opentelemetry.io/docs/specs/semconv/messaging/ and https://opentelemetry.io/docs/specs/semconv/gen-ai/.
What the conventions have no word for begins with ``cairn.``.
"""

from __future__ import annotations

# ---- span kinds (``infra.telemetry.span(kind=…)``)

INTERNAL = "internal"
SERVER = "server"
CLIENT = "client"
PRODUCER = "producer"
CONSUMER = "consumer"

# ---- the process

SERVICE_NAME = "service.name"
SERVICE_VERSION = "service.version"
ERROR_TYPE = "error.type"

# ---- messages

MESSAGING_SYSTEM = "messaging.system"
MESSAGING_OPERATION_TYPE = "messaging.operation.type"
MESSAGING_OPERATION_NAME = "messaging.operation.name"
MESSAGING_DESTINATION_NAME = "messaging.destination.name"
MESSAGING_MESSAGE_ID = "messaging.message.id"
MESSAGING_CONVERSATION_ID = "messaging.message.conversation_id"

NATS = "nats"
SEND = "send"
RECEIVE = "receive"
PROCESS = "process"
SETTLE = "settle"

# ---- agents, models and tools

GEN_AI_OPERATION_NAME = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME = "gen_ai.provider.name"
GEN_AI_AGENT_NAME = "gen_ai.agent.name"
GEN_AI_CONVERSATION_ID = "gen_ai.conversation.id"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
GEN_AI_USAGE_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
GEN_AI_TOOL_NAME = "gen_ai.tool.name"
GEN_AI_TOOL_CALL_ID = "gen_ai.tool.call.id"

INVOKE_AGENT = "invoke_agent"
EXECUTE_TOOL = "execute_tool"
CHAT = "chat"

# ---- what is Cairn's own

TENANT = "cairn.tenant"
ENTITY = "cairn.entity"
ENTITY_ID = "cairn.entity.id"
TASK_ID = "cairn.task.id"
RUN_ID = "cairn.run.id"
ENVIRONMENT_ID = "cairn.environment.id"
COMMAND = "cairn.command"
EVENTS = "cairn.events"
SEQUENCE = "cairn.sequence"
EXIT_CODE = "process.exit.code"
