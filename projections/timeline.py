"""What a run did: entries (answers of the model, calls, notes) and what became of each call.

Both tables only grow: an event becomes at most one row of each, and no row is read or changed again. Where a call
stands is the last of its ``call_states``, which the view ``timeline`` looks up; so nothing is folded here, and the
many events of a run cost the least that they can.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from events.content import Content, Inline
from events.environment import (
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallInterrupted,
    ToolCallStarted,
    ToolCallUncertain,
)
from events.kernel import Event
from events.requests import CallRequested
from events.run import (
    RUN_ENDS,
    AgentReminded,
    AnswerReceived,
    ModelCallPostponed,
    ModelResponded,
    RunDiverged,
    RunEnd,
    RunInterrupted,
    RunReconciled,
    RunReconfigured,
    RunResumed,
    RunStarted,
    RunSucceeded,
    ToolCallRefused,
    ToolCallRequested,
)
from projections.run import detail_of

# A decision holds fewer events than this: 65,536 of them would not fit into one message.
POSITIONS_OF_A_DECISION = 1 << 16

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Entry(msgspec.Struct, frozen=True):
    """A row of ``entries``. ``at`` is the time of the decision, in microseconds since 1970."""

    run_id: str
    position: int
    kind: str
    name: str
    at: int
    step: int | None = None
    call_id: str | None = None
    effects: str | None = None
    arguments: str | None = None
    arguments_digest: str | None = None
    arguments_bytes: int | None = None
    text: str = ""
    stop_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    duration_ms: int | None = None


class CallState(msgspec.Struct, frozen=True):
    """A row of ``call_states``."""

    call_id: str
    sequence: int
    state: str
    at: int
    detail: str = ""
    duration_ms: int | None = None
    exit_code: int | None = None
    checkpoint: str = ""
    result: str | None = None
    result_digest: str | None = None
    result_bytes: int | None = None
    output_bytes: int | None = None
    truncated: bool = False


# (the run's id, or the environment's; position, event, microseconds since 1970) -> row
EntryOf = Callable[[str, int, Any, int], Entry]
# (sequence, event, microseconds since 1970) -> row
CallStateOf = Callable[[int, Any, int], CallState]


def microseconds(time: datetime) -> int:
    """``time`` as microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def _parts(content: Content) -> tuple[str | None, str | None, int | None]:
    """Inline text, digest, size: either the first or the other two."""
    if isinstance(content, Inline):
        return content.text, None, None
    return None, content.digest, content.size_bytes


def _answer(id: str, position: int, event: ModelResponded, at: int) -> Entry:
    return Entry(
        id,
        position,
        "model",
        event.model,
        at,
        event.step,
        text=event.text,
        stop_reason=event.stop_reason,
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        cost_usd=event.cost_usd,
        duration_ms=event.duration_ms,
    )


def _call(id: str, position: int, event: ToolCallRequested, at: int) -> Entry:
    return Entry(
        id, position, "tool", event.tool, at, event.step, event.call_id, event.effects, *_parts(event.arguments)
    )


def _uncertain_note(id: str, position: int, event: ToolCallUncertain, at: int) -> Entry:
    text = f"{event.resolution}: {event.detail}"
    if event.asked:
        text += f" (asked: {event.asked}; exit code {event.answer_code})"
    return Entry(event.run_id, position, "note", "uncertain", at, call_id=event.call_id, text=text)


def _end(id: str, position: int, event: RunEnd, at: int) -> Entry:
    text = event.summary if isinstance(event, RunSucceeded) else detail_of(event)
    return Entry(id, position, "note", RUN_ENDS[type(event)], at, text=text)


def _note(name: str, text: Callable[[Any], str]) -> EntryOf:
    return lambda id, position, event, at: Entry(id, position, "note", name, at, text=text(event))


ENTRIES: dict[type[Event], EntryOf] = {
    RunStarted: _note("started", lambda event: event.prompt),
    RunResumed: _note("resumed", lambda event: f"epoch {event.epoch} on {event.host}, after {event.after}"),
    RunInterrupted: _note("interrupted", lambda event: f"epoch {event.epoch} ended, after {event.after}"),
    RunDiverged: _note("diverged", lambda event: f"{event.kind}: expected {event.expected}, found {event.found}"),
    RunReconciled: _note("reconciled", lambda event: f"{event.kind}: {event.choice}, chosen by {event.by}"),
    RunReconfigured: _note("reconfigured", lambda event: "goes on with what is configured now"),
    ModelResponded: _answer,
    ModelCallPostponed: _note(
        "postponed", lambda event: f"{event.cause}: {event.detail} Tried again at {event.retry_at:%H:%M:%S} UTC."
    ),
    ToolCallRequested: _call,
    AgentReminded: _note("reminded", lambda event: event.text),
    ToolCallUncertain: _uncertain_note,
    **dict.fromkeys(RUN_ENDS, _end),
}


def _started(sequence: int, event: ToolCallStarted, at: int) -> CallState:
    return CallState(event.call_id, sequence, "running", at)


def _completed(sequence: int, event: ToolCallCompleted, at: int) -> CallState:
    return CallState(
        event.call_id,
        sequence,
        "completed",
        at,
        "",
        event.duration_ms,
        event.exit_code,
        event.checkpoint,
        *_parts(event.content),
        event.output_bytes,
        event.truncated,
    )


def _failed(sequence: int, event: ToolCallFailed, at: int) -> CallState:
    return CallState(
        event.call_id,
        sequence,
        "failed",
        at,
        f"{event.cause}: {event.detail}",
        event.duration_ms,
        event.exit_code,
        event.checkpoint,
        *_parts(event.content),
        event.output_bytes,
        event.truncated,
    )


def _interrupted(sequence: int, event: ToolCallInterrupted, at: int) -> CallState:
    return CallState(event.call_id, sequence, "interrupted", at, event.reason, checkpoint=event.checkpoint)


def _uncertain(sequence: int, event: ToolCallUncertain, at: int) -> CallState:
    return CallState(event.call_id, sequence, "uncertain", at, f"{event.resolution}: {event.detail}")


def _refused(sequence: int, event: ToolCallRefused, at: int) -> CallState:
    return CallState(event.call_id, sequence, "refused", at, f"{event.cause}: {event.detail}")


def _answered(sequence: int, event: AnswerReceived, at: int) -> CallState:
    return CallState(event.call_id, sequence, "completed", at, result=event.answer)


def _asked(sequence: int, event: CallRequested, at: int) -> CallState:
    return CallState(event.call_id, sequence, "requested", at, f"{event.tool}, asked for by {event.by}")


CALL_STATES: dict[type[Event], CallStateOf] = {
    CallRequested: _asked,
    ToolCallStarted: _started,
    ToolCallCompleted: _completed,
    ToolCallFailed: _failed,
    ToolCallInterrupted: _interrupted,
    ToolCallUncertain: _uncertain,
    ToolCallRefused: _refused,
    AnswerReceived: _answered,
}
