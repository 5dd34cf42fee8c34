"""Environments: one row each, from the first run that asks for it until it is removed.

The row holds what is running in it now, and its composed system as it was seen last; what became of each call stands
in ``call_states``. A call without effects says nothing of its start and leaves the row as it is.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from events import systems
from events.envelope import Envelope
from events.environment import (
    EnvironmentLost,
    EnvironmentMoved,
    EnvironmentPreparationFailed,
    EnvironmentPrepared,
    EnvironmentRemoved,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallInterrupted,
    ToolCallStarted,
    ToolCallUncertain,
    WorkspaceDiverged,
    WorkspaceReconciled,
)
from events.kernel import Event
from events.task import RunRequested
from projections.projection import Projection, json_text, plain, replace


class EnvironmentRow(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    task_id: str = ""
    host: str = ""
    isolation: str = ""
    workspace: str = ""
    repository_url: str = ""
    base_branch: str = ""
    base_commit: str = ""
    checkpoint: str = ""
    status: str = "preparing"
    running_calls: list[str] = []
    detail: str = ""
    project_id: str = ""
    made_by: str = ""
    system: str = "null"
    created_at: datetime
    updated_at: datetime
    sequence: int = 0


def _prepared(row: EnvironmentRow, event: EnvironmentPrepared, envelope: Envelope) -> EnvironmentRow:
    return replace(
        row,
        task_id=event.task_id,
        host=event.host,
        isolation=event.isolation,
        workspace=event.workspace,
        repository_url=event.repository_url,
        base_branch=event.base_branch,
        base_commit=event.base_commit,
        checkpoint=event.commit,
        status="ready",
        detail="",
        project_id=event.project,
        made_by=event.made_by,
    )


def _failed(row: EnvironmentRow, event: EnvironmentPreparationFailed, envelope: Envelope) -> EnvironmentRow:
    return replace(row, task_id=event.task_id, status="failed", detail=f"{event.cause}: {event.detail}")


def _call_started(row: EnvironmentRow, event: ToolCallStarted, envelope: Envelope) -> EnvironmentRow:
    if event.call_id in row.running_calls:
        return row
    return replace(row, running_calls=[*row.running_calls, event.call_id])


def _call_ended(
    row: EnvironmentRow, event: ToolCallCompleted | ToolCallFailed | ToolCallInterrupted, envelope: Envelope
) -> EnvironmentRow:
    checkpoint = event.checkpoint or row.checkpoint
    if event.call_id in row.running_calls:
        remaining = [call for call in row.running_calls if call != event.call_id]
        return replace(row, running_calls=remaining, checkpoint=checkpoint)
    return row if checkpoint == row.checkpoint else replace(row, checkpoint=checkpoint)


def _call_uncertain(row: EnvironmentRow, event: ToolCallUncertain, envelope: Envelope) -> EnvironmentRow:
    return replace(
        row,
        running_calls=[call for call in row.running_calls if call != event.call_id],
        checkpoint=event.restored or row.checkpoint,
    )


def _diverged(row: EnvironmentRow, event: WorkspaceDiverged, envelope: Envelope) -> EnvironmentRow:
    detail = f"{event.kind}: expected {event.expected}, found {event.found}"
    return replace(row, status="diverged", detail=detail)


def _reconciled(row: EnvironmentRow, event: WorkspaceReconciled, envelope: Envelope) -> EnvironmentRow:
    return replace(row, status="ready", detail="", checkpoint=event.checkpoint)


def _lost(row: EnvironmentRow, event: EnvironmentLost, envelope: Envelope) -> EnvironmentRow:
    return replace(row, status="lost", detail=event.detail)


def _system(row: EnvironmentRow, event: Event, envelope: Envelope) -> EnvironmentRow:
    known = msgspec.json.decode(row.system, type=systems.System | None)
    return replace(row, system=json_text(systems.evolve(known, event)))


def _requested(row: EnvironmentRow, event: RunRequested, envelope: Envelope) -> EnvironmentRow:
    """A run wants it: nothing new where it is there already."""
    if event.environment_id != row.id or row.status in ("ready", "diverged", "lost"):
        return row
    return replace(row, task_id=envelope.entity_id, status="preparing", detail="")


ENVIRONMENTS: Projection[EnvironmentRow] = plain(
    "environments",
    EnvironmentRow,
    lambda id, time: EnvironmentRow(id=id, created_at=time, updated_at=time),
    {
        RunRequested: _requested,
        EnvironmentPrepared: _prepared,
        EnvironmentMoved: lambda row, event, envelope: replace(
            row, host=event.host, workspace=event.workspace, checkpoint=event.checkpoint, detail="", system="null"
        ),
        EnvironmentPreparationFailed: _failed,
        WorkspaceDiverged: _diverged,
        WorkspaceReconciled: _reconciled,
        EnvironmentLost: _lost,
        ToolCallStarted: _call_started,
        ToolCallCompleted: _call_ended,
        ToolCallFailed: _call_ended,
        ToolCallInterrupted: _call_ended,
        ToolCallUncertain: _call_uncertain,
        EnvironmentRemoved: lambda row, event, envelope: replace(
            row, status="removed", running_calls=[], detail=event.reason, system="null"
        ),
        **dict.fromkeys(systems.EVENTS, _system),
    },
)
