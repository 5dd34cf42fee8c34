"""What the scheduler is told of the checks that its gates asked for."""

from __future__ import annotations

import uuid

from events import subjects
from events.environment import (
    ENVIRONMENT,
    CallEnd,
    ExecuteTool,
    PublishBranch,
    ToolCallInterrupted,
    WorkspaceDiverged,
)
from events.errors import Transient
from events.kernel import Command
from events.task import RecordCheck
from infra.entities import Cause
from infra.ports import ContentStore, EventLog, read_content
from infra.sender import Sender
from services.environment_manager import ends

CHECK_DETAIL_CHARACTERS = 4_000


class Reports:
    def __init__(self, log: EventLog, sender: Sender, content: ContentStore) -> None:
        self._log = log
        self._sender = sender
        self._content = content

    async def divergence(self, command: ExecuteTool, diverged: WorkspaceDiverged, cause: Cause) -> None:
        """The check cannot begin; said each time that it is asked for."""
        report = ends.divergence(command, diverged)
        await self._tell(command.task_id, report, f"{report.divergence_id}-{uuid.uuid4().hex}", cause)

    async def check(self, command: ExecuteTool, ended: CallEnd, cause: Cause) -> None:
        """What the check came to."""
        passed, summary = ends.verdict(ended)
        detail = "" if isinstance(ended, ToolCallInterrupted) else await read_content(self._content, ended.content)
        answer = RecordCheck(
            stage=command.check_stage,
            check_id=command.call_id,
            passed=passed,
            summary=summary,
            detail=detail[-CHECK_DETAIL_CHARACTERS:],
        )
        await self._tell(command.task_id, answer, f"{command.call_id}-result", cause)

    async def no_workspace(self, command: Command, detail: str, cause: Cause) -> None:
        """Where ``command`` is a check, it cannot be made: said each time that it is asked for."""
        match command:
            case ExecuteTool(task_id=task_id, check_stage=stage, call_id=check_id) if stage:
                pass
            case PublishBranch(task_id=task_id, stage=stage, check_id=check_id):
                pass
            case _:
                return
        answer = RecordCheck(stage=stage, check_id=check_id, passed=None, summary=f"It has no workspace: {detail}")
        await self._tell(task_id, answer, f"{check_id}-no-workspace-{uuid.uuid4().hex}", cause)

    async def find_end(self, environment_id: str, call_id: str) -> CallEnd:
        """The end of a call in the log. Raises ``Transient`` where it is not there yet."""
        for record in reversed(await self._log.load(ENVIRONMENT.name, environment_id)):
            for event in record.envelope.events:
                if isinstance(event, CallEnd) and event.call_id == call_id:
                    return event
        message = f"the end of call {call_id} is not in the log"
        raise Transient(message)

    async def _tell(self, task_id: str, report: Command, command_id: str, cause: Cause) -> None:
        await self._sender.send(
            subjects.SCHEDULER, subjects.ANY, "task", task_id, report, command_id=command_id, cause=cause
        )
