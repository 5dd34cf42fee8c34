"""Runs: one row each, from the task's request on, so that a run that nobody has taken up yet is seen too."""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.agents import ModelAgent
from events.envelope import Envelope
from events.run import (
    RUN_ENDS,
    ModelCallPostponed,
    ModelResponded,
    RunAbandoned,
    RunCrashed,
    RunCrashLooped,
    RunDiverged,
    RunEnd,
    RunFellSilent,
    RunOverBudget,
    RunReconciled,
    RunResumed,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
)
from events.task import RunRequested
from projections.projection import Projection, plain, replace


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    task_id: str = ""
    stage: str = ""
    attempt: int = 0
    environment_id: str = ""
    agent_name: str = ""
    kind: str = ""
    model: str = ""
    host: str = ""
    runner: str = ""
    epoch: int = 0
    status: str = "pending"
    steps: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    retry_at: datetime | None = None
    summary: str = ""
    cause: str = ""
    detail: str = ""
    commit: str = ""
    requested_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    updated_at: datetime
    sequence: int = 0


def _requested(row: RunRow, event: RunRequested, envelope: Envelope) -> RunRow:
    if event.run_id != row.id:
        return row
    return replace(row, task_id=envelope.entity_id, requested_at=envelope.time, **_who(event))


def _started(row: RunRow, event: RunStarted, envelope: Envelope) -> RunRow:
    return replace(
        row,
        task_id=event.task_id,
        host=event.host,
        runner=event.runner,
        epoch=event.epoch,
        status="running",
        started_at=envelope.time,
        **_who(event),
    )


def _who(event: RunRequested | RunStarted) -> dict[str, object]:
    return {
        "stage": event.stage,
        "attempt": event.attempt,
        "environment_id": event.environment_id,
        "agent_name": event.agent_name,
        "kind": event.agent.__struct_config__.tag,
        "model": event.agent.model if isinstance(event.agent, ModelAgent) else "",
    }


def _resumed(row: RunRow, event: RunResumed, envelope: Envelope) -> RunRow:
    return replace(row, epoch=event.epoch, host=event.host, runner=event.runner)


def _responded(row: RunRow, event: ModelResponded, envelope: Envelope) -> RunRow:
    return replace(
        row,
        steps=event.step,
        model=event.model or row.model,
        input_tokens=row.input_tokens + event.input_tokens,
        output_tokens=row.output_tokens + event.output_tokens,
        cost_usd=row.cost_usd + event.cost_usd,
        retry_at=None,
        detail="",
    )


def _postponed(row: RunRow, event: ModelCallPostponed, envelope: Envelope) -> RunRow:
    return replace(row, retry_at=event.retry_at, detail=f"{event.cause}: {event.detail}")


def _diverged(row: RunRow, event: RunDiverged, envelope: Envelope) -> RunRow:
    return replace(row, status="diverged", detail=f"{event.kind}: expected {event.expected}, found {event.found}")


def _reconciled(row: RunRow, event: RunReconciled, envelope: Envelope) -> RunRow:
    return replace(row, status="running", detail="")


def _ended(row: RunRow, event: RunEnd, envelope: Envelope) -> RunRow:
    status = RUN_ENDS[type(event)]
    succeeded = isinstance(event, RunSucceeded)
    return replace(
        row,
        status=status,
        summary=event.summary if isinstance(event, RunSucceeded) else "",
        commit=event.commit if isinstance(event, RunSucceeded) else "",
        cause="" if succeeded else getattr(event, "cause", "") or status,
        detail=detail_of(event),
        retry_at=None,
        ended_at=envelope.time,
    )


def detail_of(event: RunEnd) -> str:
    """How a run ended, in words for a person; empty where it succeeded."""
    match event:
        case RunSucceeded():
            return ""
        case RunCrashed():
            code = "" if event.exit_code is None else f"exit code {event.exit_code}. "
            return f"{code}{event.detail}"
        case RunTimedOut():
            return f"not done within its {event.limit_seconds:g} seconds"
        case RunFellSilent():
            return f"nothing was heard of it for {event.limit_seconds:g} seconds"
        case RunOverBudget():
            return f"used {event.used:g} {event.budget} of {event.limit:g}"
        case RunAbandoned():
            return f"its {event.kind} had diverged, and {event.by or 'somebody'} gave it up"
        case RunCrashLooped():
            return f"its runner died {event.epochs} times at the same step"
        case _:
            return str(getattr(event, "detail", "") or getattr(event, "reason", ""))


RUNS: Projection[RunRow] = plain(
    "runs",
    RunRow,
    lambda id, time: RunRow(id=id, requested_at=time, updated_at=time),
    {
        RunRequested: _requested,
        RunStarted: _started,
        RunResumed: _resumed,
        RunDiverged: _diverged,
        RunReconciled: _reconciled,
        ModelResponded: _responded,
        ModelCallPostponed: _postponed,
        **dict.fromkeys(RUN_ENDS, _ended),
    },
)
