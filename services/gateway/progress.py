"""Whether a run can still print anything, folded from the log: when its output stream may end."""

from __future__ import annotations

import re

from events import names
from events.envelope import Recorded
from events.environment import (
    EnvironmentRemoved,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallInterrupted,
    ToolCallStarted,
    ToolCallUncertain,
)
from events.kernel import Event
from events.run import RUN, RUN_ENDS, RunStarted
from events.task import (
    CheckRequested,
    GatePassed,
    GateRefused,
    GateUnevaluated,
    RunFailureRecorded,
    RunRecorded,
    RunRequested,
    TaskBlocked,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
)
from events.task_state import TASK, Task
from infra.ports import EventLog
from services.gateway.selection import ENVIRONMENT, Selection, environment_of, exactly

_NUMBER = re.compile(r"-[0-9]+(?=-)")


class Progress:
    """A run, or a gate's check, as far as its output goes."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._started = False
        self._ended = ""
        self._settled = ""
        self._open: set[str] = set()
        # Call id → how many bytes a process printed that has ended.
        self.printed_bytes: dict[str, int] = {}

    @property
    def over(self) -> bool:
        return bool(self.status) and not self._open

    @property
    def status(self) -> str:
        """How it ended, empty while it goes on. The word of the run itself counts; the task's where it has none."""
        return self._ended or ("" if self._started else self._settled)

    def apply(self, record: Recorded) -> None:
        own = record.envelope.entity != RUN.name or record.envelope.entity_id == self._id
        for event in record.envelope.events if own else ():
            self._apply(event)

    def _apply(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._started = True
            case RunRequested(run_id=self._id) | CheckRequested(check_id=self._id):
                self._settled = ""
            case RunRecorded(run_id=self._id) | GatePassed(check_id=self._id):
                self._settled = "succeeded"
            case RunFailureRecorded(run_id=self._id) | GateRefused(check_id=self._id):
                self._settled = "failed"
            case GateUnevaluated(check_id=self._id):
                self._settled = "unevaluated"
            case TaskCancelled() | TaskFailed() | TaskBlocked() | TaskCompleted():
                self._settled = self._settled or "cancelled"
            case EnvironmentRemoved():
                self._open.clear()
            case _ if type(event) in RUN_ENDS:
                self._ended = RUN_ENDS[type(event)]
            case _:
                self._apply_call(event)

    def _apply_call(self, event: Event) -> None:
        match event:
            case ToolCallStarted(run_id=self._id):
                self._open.add(event.call_id)
            case ToolCallCompleted(run_id=self._id) | ToolCallFailed(run_id=self._id):
                self._open.discard(event.call_id)
                if event.exit_code is not None:
                    self.printed_bytes[event.call_id] = event.output_bytes
            case ToolCallInterrupted(run_id=self._id):
                self._open.discard(event.call_id)
            case ToolCallUncertain(run_id=self._id, resolution="told-agent"):
                self._open.discard(event.call_id)
            case _:
                pass


async def task_of(log: EventLog, id: str) -> Task | None:
    """The task that requested the run or check ``id``, None where there is no such run."""
    for candidate in _candidates(id):
        records = await log.load(TASK.name, candidate)
        task = TASK.fold(candidate, (event for record in records for event in record.envelope.events))
        for name, stage in task.stages.items():
            runs = (names.run_id(candidate, name, number) for number in range(1, stage.attempt + 1))
            checks = (names.check_id(candidate, name, number) for number in range(1, stage.checks + 1))
            if id in runs or id in checks:
                return task
    return None


def _candidates(id: str) -> list[str]:
    """What the id of the run's task may be: stages' names and projects' prefixes can hold numbers too."""
    found = []
    position = 0
    while (match := _NUMBER.search(id, position)) is not None:
        found.append(id[: match.end()])
        position = match.end()
    return found


def concerning(id: str, task_id: str) -> Selection:
    """What tells how far a run or check is: of its task, of itself, and of its environment."""
    return exactly((TASK.name, task_id), (RUN.name, id), (ENVIRONMENT, environment_of(id)))
