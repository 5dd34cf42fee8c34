"""Subjects and streams: where each message lives in JetStream.

==================== ================================================== ============================================
stream               subjects                                           why it is a stream of its own
==================== ================================================== ============================================
EVENTS_<tenant>      evt.<tenant>.<entity>.<id>                         facts, kept for ever, one order per tenant
COMMANDS             cmd.<tenant>.<service>.<target>.<entity>.<id>      wishes of people and services, work queue
RUNS                 cmd.<tenant>.agent-runner.any.run.<id>             the leases: at most one open job per run
CALLS                cmd.<tenant>.environment-manager.<host>.call.<id>  derived from events again at any time, so
                                                                        they are kept in memory and cost no fsync
                     cmd.<tenant>.environment-manager.<host>.checkpoint.<id>  questions: whoever asks can ask again
OUTPUT               out.<tenant>.<run>                                 what processes print
CONTENT              content.<tenant>.<digest>                          large payloads by SHA-256
HOSTS                host.<tenant>.<host>                               each host's last sign of life, in memory
LEASES               lease.<tenant>.<run>                               the runs that somebody holds now, in memory
DEAD_LETTERS         dead.<tenant>.<service>                            what could not be handled, with the reason
==================== ================================================== ============================================
"""

from __future__ import annotations

ANY = "any"

COMMANDS = "COMMANDS"
RUNS = "RUNS"
CALLS = "CALLS"
OUTPUT = "OUTPUT"
CONTENT = "CONTENT"
HOSTS = "HOSTS"
LEASES = "LEASES"
DEAD_LETTERS = "DEAD_LETTERS"

SCHEDULER = "scheduler"
AGENT_RUNNER = "agent-runner"
ENVIRONMENT_MANAGER = "environment-manager"
CHAOS = "chaos"
NOTIFIER = "notifier"
PROJECTOR = "projector"
GATEWAY = "gateway"

# The entity token of a command decides its stream: a run's lease, a tool call, a question about an environment's
# checkpoints, or anything else.
RUN_TOKEN = "run"
CALL_TOKEN = "call"
CHECKPOINT_TOKEN = "checkpoint"

COMMAND_SUBJECTS = (
    f"cmd.*.{SCHEDULER}.>",
    f"cmd.*.{ENVIRONMENT_MANAGER}.*.environment.>",
    f"cmd.*.{ENVIRONMENT_MANAGER}.*.pull_request.>",
    f"cmd.*.{CHAOS}.>",
)
RUN_SUBJECTS = (f"cmd.*.{AGENT_RUNNER}.*.{RUN_TOKEN}.>",)
CALL_SUBJECTS = (
    f"cmd.*.{ENVIRONMENT_MANAGER}.*.{CALL_TOKEN}.>",
    f"cmd.*.{ENVIRONMENT_MANAGER}.*.{CHECKPOINT_TOKEN}.>",
)


def events_stream(tenant: str) -> str:
    return f"EVENTS_{tenant}"


def event(tenant: str, entity: str, id: str) -> str:
    return f"evt.{tenant}.{entity}.{id}"


def command(tenant: str, service: str, target: str, entity: str, id: str) -> str:
    return f"cmd.{tenant}.{service}.{target}.{entity}.{id}"


def output(tenant: str, run: str) -> str:
    return f"out.{tenant}.{run}"


def content(tenant: str, digest: str) -> str:
    return f"content.{tenant}.{digest}"


def host(tenant: str, name: str) -> str:
    return f"host.{tenant}.{name}"


def lease(tenant: str, run: str) -> str:
    return f"lease.{tenant}.{run}"


def dead_letter(tenant: str, service: str) -> str:
    return f"dead.{tenant}.{service}"


def stream_of_command(entity: str) -> str:
    """The stream that keeps commands whose entity token is ``entity``."""
    return {RUN_TOKEN: RUNS, CALL_TOKEN: CALLS, CHECKPOINT_TOKEN: CALLS}.get(entity, COMMANDS)
