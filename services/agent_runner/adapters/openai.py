"""Chat completions (https://platform.openai.com/docs/api-reference/chat), OpenAI's own and the many that speak it.

Those differ in what they leave out, so answers and errors are read tolerantly. OpenAI itself bounds an answer by
``max_completion_tokens``, which the others do not all know; they get ``max_tokens``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from events.conversation import AssistantTurn, Message, ToolResults
from services.agent_runner.adapters.failures import Failure, error_of
from services.agent_runner.adapters.http import Http, Reply
from services.agent_runner.adapters.wire import wire_arguments, wire_id, wire_name
from services.agent_runner.causes import OPENAI, cause_of_status
from services.agent_runner.ports import CallAsked, ModelAnswer, ModelRequest, ModelUnavailable

BASE_URL = "https://api.openai.com/v1"

Json = dict[str, Any]


class _Function(msgspec.Struct):
    """``arguments`` is text with JSON in it; some servers send the object itself."""

    name: str = ""
    arguments: Any = ""


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None


class _AnswerMessage(msgspec.Struct):
    """``content`` is text, or a list of parts of which those of type ``text`` count."""

    content: Any = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    message: _AnswerMessage
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    """``cached_tokens`` are among the prompt's."""

    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    model: str | None = None
    usage: _Usage | None = None


class _Error(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error | str


_answer_decoder = msgspec.json.Decoder(_Answer)
_error_decoder = msgspec.json.Decoder(_ErrorBody)
_flat_error_decoder = msgspec.json.Decoder(_Error)

_STOP_REASONS = {
    "stop": "end_turn",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
}

# Several servers say this by words alone, in a plain 400.
_TOO_LONG = ("maximum context length", "context window")


class OpenAIModel:
    """``key`` may be empty: a server of one's own often wants none."""

    def __init__(self, http: Http, *, model: str, key: str, base_url: str = "") -> None:
        self._http = http
        self._model = model
        self._key = key
        self._url = (base_url or BASE_URL).rstrip("/") + "/chat/completions"
        self._bound = "max_completion_tokens" if self._url.startswith(BASE_URL) else "max_tokens"

    async def respond(self, request: ModelRequest) -> ModelAnswer:
        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        body = msgspec.json.encode(await self._body(request))
        reply = await self._http.post(self._url, headers, body)
        failure = _failure(reply)
        if reply.status != 200 or failure is not None:
            failure = failure or Failure("", "", "")
            raise error_of(self._url, reply, failure, _cause(reply, failure), self._key)
        try:
            return _answer(_answer_decoder.decode(reply.body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, IndexError) as error:
            message = f"{self._url} answered something that is no chat completion ({error})."
            raise ModelUnavailable(message, cause="server-error") from error

    async def _body(self, request: ModelRequest) -> Json:
        messages: list[Json] = [{"role": "system", "content": request.system}] if request.system else []
        for message in request.messages:
            messages += await _wire(message, request)
        body: Json = {"model": self._model, self._bound: request.max_output_tokens, "messages": messages}
        if request.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
                }
                for tool in request.tools
            ]
        return body


async def _wire(message: Message, request: ModelRequest) -> list[Json]:
    if isinstance(message, ToolResults):
        return [
            {
                "role": "tool",
                "tool_call_id": wire_id(result.call_id),
                "content": result.shown(await request.read(result.content)),
            }
            for result in message.results
        ]
    if not isinstance(message, AssistantTurn):
        return [{"role": "user", "content": message.text}]
    if not message.calls:
        return [{"role": "assistant", "content": message.text}] if message.text else []
    calls = [
        {
            "id": wire_id(call.call_id),
            "type": "function",
            "function": {
                "name": wire_name(call.tool),
                "arguments": wire_arguments(await request.read(call.arguments)),
            },
        }
        for call in message.calls
    ]
    return [{"role": "assistant", "content": message.text or None, "tool_calls": calls}]


def _answer(answer: _Answer) -> ModelAnswer:
    choice = answer.choices[0]
    message = choice.message
    calls = tuple(
        CallAsked(
            tool=call.function.name, arguments=_arguments(call.function.arguments), provider_call_id=call.id or ""
        )
        for call in message.tool_calls or ()
    )
    usage = answer.usage or _Usage()
    reason = choice.finish_reason or ""
    return ModelAnswer(
        text=_text(message.content) or message.refusal or "",
        calls=calls,
        stop_reason="refusal" if message.refusal else _STOP_REASONS.get(reason, reason),
        model=answer.model or "",
        input_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
        cache_read_tokens=(usage.prompt_tokens_details or _PromptDetails()).cached_tokens or 0,
    )


def _arguments(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(str(part.get("text", "")) for part in parts)
    return content if isinstance(content, str) else ""


def _failure(reply: Reply) -> Failure | None:
    """The error in a body; some servers send it with status 200, some not within ``error``."""
    try:
        error = _error_decoder.decode(reply.body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        if reply.status == 200:
            return None
        try:
            error = _flat_error_decoder.decode(reply.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
    if isinstance(error, str):
        return Failure("", "", error)
    return Failure(error.type or "", str(error.code or ""), error.message or "")


def _cause(reply: Reply, failure: Failure) -> str:
    typed = OPENAI.get(failure.code) or OPENAI.get(failure.type)
    if typed:
        return typed
    # A server in between passes the status of the one behind it on as the code.
    status = int(failure.code) if failure.code.isdecimal() and reply.status == 200 else reply.status
    cause = "server-error" if status == 200 else cause_of_status(status)
    if cause == "request-invalid" and any(words in failure.message for words in _TOO_LONG):
        return "context-too-long"
    return cause
