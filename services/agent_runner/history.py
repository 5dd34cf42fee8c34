"""What a run knows of the log: its own events, its environment's and its task's, folded as they come.

It is loaded once, when the run is taken, and kept up to date by what the run appends itself and by the watch. The
conversation with the model is one of its folds. Of a long run a snapshot lies on this host, so that taking it again
does not cost more the longer it has become.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from events.conversation import Conversation, ConversationState, call_result
from events.envelope import Recorded
from events.environment import (
    ENVIRONMENT,
    CallEnd,
    Environment,
    EnvironmentPreparationFailed,
    ReconciliationFailed,
)
from events.kernel import Event
from events.lineage import ForkedFrom
from events.run import (
    AnswerReceived,
    Run,
    RunDiverged,
    RunReconciled,
    RunResumed,
    RunStarted,
    ToolCallRefused,
    ToolCallRequested,
)
from events.task_state import TASK, Task
from infra.lineage import ancestors
from infra.ports import EventLog
from services.agent_runner.watch import Watch


class HistorySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A history as it was, with the run at its revision. ``revisions`` are those of environment and task."""

    run: Run
    revision: int
    conversation: ConversationState
    environment: Environment
    task: Task
    revisions: dict[str, int]
    started_at: datetime | None
    last_at: datetime | None
    uncounted: timedelta
    asked_at: dict[str, datetime]
    call_ends: dict[str, CallEnd]


class History:
    """``changed`` is called after each record that came in from others."""

    def __init__(self, run_id: str, environment_id: str, task_id: str, changed: Callable[[], None]) -> None:
        self.conversation = Conversation()
        self.environment: Environment = ENVIRONMENT.initial(environment_id)
        self.task: Task = TASK.initial(task_id)
        self.preparation_failure: EnvironmentPreparationFailed | None = None
        self.reconciliation_failure: ReconciliationFailed | None = None
        self.started_at: datetime | None = None
        # Time that does not count against the run's limit: waiting for people, and while nobody held the run.
        self.uncounted = timedelta()
        self._last_at: datetime | None = None
        self._run_id = run_id
        self._call_ends: dict[str, CallEnd] = {}
        self._asked_at: dict[str, datetime] = {}
        self._changed = changed
        self._revisions = {ENVIRONMENT.name: 0, TASK.name: 0}
        self._early: list[Recorded] | None = []
        # Ends of calls whose request this process does not know of yet: another one may dispatch what it appended
        # before its answer comes back here.
        self._early_ends: dict[str, Event] = {}

    async def load(
        self,
        log: EventLog,
        watch: Watch,
        forked_from: ForkedFrom | None = None,
        snapshot: HistorySnapshot | None = None,
    ) -> list[Recorded]:
        """Read and fold everything, or what came since the snapshot; answer the run's own records of that. From here
        on the watch keeps it up to date.

        Of a fork, the conversation begins with that of the runs that it goes on from; nothing else of them counts."""
        watch.add(ENVIRONMENT.name, self.environment.id, self.receive)
        watch.add(TASK.name, self.task.id, self.receive)
        if snapshot is not None:
            self._restore(snapshot)
        else:
            for record in await ancestors(log, forked_from):
                for event in record.envelope.events:
                    self.conversation.apply(event)
        own = await log.load("run", self._run_id, after=snapshot.revision if snapshot is not None else 0)
        others = [
            *await log.load(ENVIRONMENT.name, self.environment.id, after=self._revisions[ENVIRONMENT.name]),
            *await log.load(TASK.name, self.task.id, after=self._revisions[TASK.name]),
        ]
        for record in sorted([*own, *others], key=lambda record: record.sequence):
            if record.envelope.entity == "run":
                self.add_own(record.envelope.events, record.envelope.time)
            else:
                self._fold(record)
        early, self._early = self._early or [], None
        for record in early:
            self._fold(record)
        self.preparation_failure = None
        return own

    def snapshot(self, run: Run, revision: int) -> HistorySnapshot:
        """All of it, with the run as it is now."""
        return HistorySnapshot(
            run=run,
            revision=revision,
            conversation=self.conversation.state(),
            environment=self.environment,
            task=self.task,
            revisions=self._revisions,
            started_at=self.started_at,
            last_at=self._last_at,
            uncounted=self.uncounted,
            asked_at=self._asked_at,
            call_ends=self._call_ends,
        )

    def _restore(self, snapshot: HistorySnapshot) -> None:
        self.conversation = Conversation.of(snapshot.conversation)
        self.environment = snapshot.environment
        self.task = snapshot.task
        self._revisions = dict(snapshot.revisions)
        self.started_at = snapshot.started_at
        self._last_at = snapshot.last_at
        self.uncounted = snapshot.uncounted
        self._asked_at = dict(snapshot.asked_at)
        self._call_ends = dict(snapshot.call_ends)

    def leave(self, watch: Watch) -> None:
        watch.remove(ENVIRONMENT.name, self.environment.id, self.receive)
        watch.remove(TASK.name, self.task.id, self.receive)

    def add_own(self, events: tuple[Event, ...], time: datetime) -> None:
        """Fold what this run's holder appended."""
        for event in events:
            self.conversation.apply(event)
            if isinstance(event, RunStarted):
                self.started_at = time
            elif isinstance(event, ToolCallRequested) and event.tool == "ask_human":
                self._asked_at[event.call_id] = time
            elif isinstance(event, RunDiverged):
                self._asked_at[event.divergence_id] = time
            elif isinstance(event, RunReconciled) and event.divergence_id in self._asked_at:
                self.uncounted += time - self._asked_at.pop(event.divergence_id)
            elif isinstance(event, AnswerReceived) and event.call_id in self._asked_at:
                self.uncounted += time - self._asked_at.pop(event.call_id)
            elif isinstance(event, ToolCallRefused):
                self._asked_at.pop(event.call_id, None)  # Nobody was asked.
            elif isinstance(event, RunResumed) and self._last_at is not None and not self._asked_at:
                self.uncounted += max(timedelta(), time - self._last_at)
        self._last_at = time
        for event in events:
            if isinstance(event, ToolCallRequested) and event.call_id in self._early_ends:
                self.conversation.apply(self._early_ends.pop(event.call_id))

    def receive(self, record: Recorded) -> None:
        if self._early is not None:
            self._early.append(record)
        elif self._fold(record):
            self._changed()

    def _is_unknown(self, event: Event, call_id: str) -> bool:
        return getattr(event, "run_id", "") == self._run_id and self.conversation.result_of(call_id) is None

    def call_end(self, call_id: str) -> CallEnd | None:
        """How the call of an agent program ended in the environment."""
        return self._call_ends.get(call_id)

    def last_result(self, run: Run) -> str:
        """The last durable step of the run in words, where that is the result of a call; else empty."""
        ended = [call for call in run.calls if self.conversation.result_of(call.call_id) is not None]
        return f"result of {ended[-1].tool} ({ended[-1].call_id})" if ended and not run.reminders else ""

    def waiting_for_people_since(self) -> datetime | None:
        """When the first question that is still open was asked."""
        return min(self._asked_at.values(), default=None)

    def _fold(self, record: Recorded) -> bool:
        entity, events = record.envelope.entity, record.envelope.events
        if record.sequence <= self._revisions[entity]:
            return False
        self._revisions[entity] = record.sequence
        if entity == TASK.name:
            self.task = TASK.fold_onto(self.task, events)
            return True
        self._last_at = record.envelope.time
        for event in events:
            self.environment = ENVIRONMENT.evolve(self.environment, event)
            self.conversation.apply(event)
            result = call_result(event)
            if result is not None and self._is_unknown(event, result.call_id):
                self._early_ends.setdefault(result.call_id, event)
            if isinstance(event, EnvironmentPreparationFailed):
                self.preparation_failure = event
            elif isinstance(event, ReconciliationFailed):
                self.reconciliation_failure = event
            elif isinstance(event, CallEnd) and event.tool == "program":
                self._call_ends[event.call_id] = event
        return True
