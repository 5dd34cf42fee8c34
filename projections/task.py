"""Tasks: one row each. The fold is the task's own (``TASK``); the columns are what a reader wants of it.

The row keeps the folded state, so that the fold can go on from the row alone. Columns are made of it only when the
row is written, not for every event.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from events import names
from events.catalogue import EVENTS
from events.content import Content
from events.envelope import Envelope
from events.kernel import Event
from events.task import RunRequested, StageResult, TaskCancelled, TaskCompleted, TaskSubmitted
from events.task_state import TASK, AwaitingApproval, Checking, Divergence, Running, StageState, Stopped, Task, Waiting
from projections.projection import Handler, Projection, json_text, replace


class TaskRow(msgspec.Struct, frozen=True, kw_only=True):
    """``agent`` is that of the last run, before the first one what the task asks for."""

    task: Task
    agent: str = ""
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None = None
    sequence: int = 0


class StageView(msgspec.Struct, frozen=True, kw_only=True):
    """A stage as a reader sees it. ``status`` is waiting, running, checking, awaiting_approval, passed or stopped.

    ``run_id`` and ``check_id`` are the last ones, '' before the first; ``retry_at`` is when a waiting stage may go on;
    ``cause`` is why a stopped one stopped.
    """

    name: str
    needs: tuple[str, ...]
    role: str
    gate: str
    approval: bool
    status: str
    attempt: int
    failures: int
    rework: int
    run_id: str
    check_id: str
    retry_at: datetime | None
    cause: str
    findings: str
    result: StageResult


COLUMNS = (
    "id",
    "project_id",
    "number",
    "title",
    "status",
    "reason",
    "priority",
    "depends_on",
    "agent",
    "specification",
    "forked_from",
    "pipeline",
    "stages",
    "questions",
    "divergences",
    "created_at",
    "updated_at",
    "ended_at",
    "sequence",
    "state",
)

_STATUS = {
    "Waiting": "waiting",
    "Running": "running",
    "Checking": "checking",
    "AwaitingApproval": "awaiting_approval",
    "Passed": "passed",
    "Stopped": "stopped",
}

_encode_state = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(Task).decode


def stages_of(task: Task) -> list[StageView]:
    """The stages in the order of the pipeline."""
    if task.submitted is None:
        return []
    views = []
    for stage in task.submitted.pipeline.stages:
        state = task.stages.get(stage.name, StageState())
        position = state.position
        views.append(
            StageView(
                name=stage.name,
                needs=stage.needs,
                role=stage.role,
                gate="" if stage.gate is None else str(stage.gate.__struct_config__.tag),
                approval=stage.approval,
                status=_STATUS[type(position).__name__],
                attempt=state.attempt,
                failures=state.failures,
                rework=state.rework,
                run_id=names.run_id(task.id, stage.name, state.attempt) if state.attempt else "",
                check_id=names.check_id(task.id, stage.name, state.checks) if state.checks else "",
                retry_at=position.retry_at if isinstance(position, Waiting) else None,
                cause=position.cause if isinstance(position, Stopped) else "",
                findings=state.findings,
                result=state.result,
            )
        )
    return views


class DivergenceView(msgspec.Struct, frozen=True, kw_only=True):
    """``choice`` and ``by`` are empty while it waits for somebody."""

    run_id: str
    divergence_id: str
    kind: str
    expected: str
    found: str
    diff: Content
    choice: str
    by: str


def _divergence(divergence: Divergence) -> DivergenceView:
    reported = divergence.reported
    return DivergenceView(
        run_id=reported.run_id,
        divergence_id=reported.divergence_id,
        kind=reported.kind,
        expected=reported.expected,
        found=reported.found,
        diff=reported.diff,
        choice=divergence.choice,
        by=divergence.by,
    )


def reason_of(task: Task) -> str:
    """Why the task stands where it stands, in a line for a person; empty where there is nothing to say."""
    ended = task.ended
    if ended is not None:
        if isinstance(ended, TaskCompleted):
            return ended.summary
        if isinstance(ended, TaskCancelled):
            return ended.reason
        return ": ".join(part for part in (ended.stage, ended.cause, ended.detail) if part)
    diverged = next((item.reported for item in task.divergences if not item.choice), None)
    if diverged is not None:
        return f"the {diverged.kind} is not as the log tells it: expected {diverged.expected}, found {diverged.found}"
    open_question = next((item.question for item in task.questions if item.answer is None), "")
    if open_question:
        return open_question
    said = [_said(name, state) for name, state in task.stages.items()]
    return "; ".join(part for part in said if part)


def _said(name: str, state: StageState) -> str:
    match state.position:
        case Running():
            return f"{name}: attempt {state.attempt} is running"
        case Checking():
            return f"{name}: its gate is being checked"
        case AwaitingApproval():
            return f"{name}: waits for approval"
        case Waiting(retry_at, reason) if retry_at is not None:
            return f"{name}: tried again at {retry_at:%Y-%m-%d %H:%M:%S} UTC. {reason or state.findings}"
        case _:
            return ""


def _values(row: TaskRow) -> tuple[Any, ...]:
    task = row.task
    submitted = task.submitted
    if submitted is None:
        message = f"task {task.id} has a row but was never submitted"
        raise AssertionError(message)
    specification = submitted.specification
    return (
        task.id,
        specification.project,
        submitted.number,
        specification.title,
        task.status,
        reason_of(task),
        specification.priority,
        list(specification.depends_on),
        row.agent,
        json_text(specification),
        json_text(submitted.forked_from),
        json_text(submitted.pipeline),
        json_text(stages_of(task)),
        json_text(task.questions),
        json_text([_divergence(item) for item in task.divergences]),
        row.created_at,
        row.updated_at,
        row.ended_at,
        row.sequence,
        _encode_state(task),
    )


def _restore(mapping: Mapping[str, Any]) -> TaskRow:
    return TaskRow(
        task=_decode_state(mapping["state"]),
        agent=mapping["agent"],
        created_at=mapping["created_at"],
        updated_at=mapping["updated_at"],
        ended_at=mapping["ended_at"],
        sequence=mapping["sequence"],
    )


def _folded(row: TaskRow, event: Event, envelope: Envelope) -> TaskRow | None:
    task = TASK.evolve(row.task, event)
    if task.submitted is None:
        return None
    agent = row.agent
    if isinstance(event, TaskSubmitted):
        agent = event.specification.agent
    elif isinstance(event, RunRequested):
        agent = event.agent_name
    ended_at = None
    if task.ended is not None:
        ended_at = envelope.time if row.task.ended is not task.ended else row.ended_at
    return replace(row, task=task, agent=agent, ended_at=ended_at)


_HANDLERS: dict[type[Event], Handler] = {
    kind: _folded for kind in EVENTS.values() if issubclass(kind, Event) and kind.__module__ == TaskSubmitted.__module__
}

TASKS: Projection[TaskRow] = Projection(
    "tasks",
    lambda id, time: TaskRow(task=TASK.initial(id), created_at=time, updated_at=time),
    _HANDLERS,
    columns=COLUMNS,
    values=_values,
    restore=_restore,
)
