"""What the scheduler knows: every project, task and breaker, folded from the log and kept up to date.

Several schedulers may be at work. ``last_task`` is the last decision about any task that the board has everything up
to, by which a placement, that stands on all tasks, is refused where the board lacks something; ``newest_task`` is the
newest one that is on the board, and what came before it may not be yet.

The board begins with a snapshot, if there is one, and a replay of what came since, and follows the log from there. The
scheduler's own decisions are put in at once, so that placement never works with less than what was just decided; the
same records coming back are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

from events.breaker import BREAKER, Breaker
from events.envelope import Recorded
from events.project import PROJECT, Project
from events.task_state import TASK, Task
from infra.ports import EventLog, Following
from infra.snapshots import SnapshotFile

ENTITIES = (PROJECT.name, TASK.name, BREAKER.name)

# So many decisions may be read again at a start before a new snapshot is worth its writing.
DECISIONS_BETWEEN_SNAPSHOTS = 5_000


class BoardSnapshot(msgspec.Struct, frozen=True):
    """Projects, tasks and breakers with their revisions, and the traces of the tasks."""

    projects: list[tuple[Project, int]]
    tasks: list[tuple[Task, int]]
    breakers: list[tuple[Breaker, int]]
    traces: dict[str, str]


class Board:
    """``snapshots`` is where it is kept between starts, None where it is always read anew."""

    def __init__(self, snapshots: SnapshotFile[BoardSnapshot] | None = None) -> None:
        self._snapshots = snapshots
        self._created_at: datetime | None = None
        self._since_saved = 0
        self.projects: dict[str, Project] = {}
        self.tasks: dict[str, Task] = {}
        self.breakers: dict[str, Breaker] = {}
        # Task → the trace that its submission began, so that everything done for it later belongs to it.
        self.traces: dict[str, str] = {}
        self._revisions: dict[tuple[str, str], int] = {}
        self._submissions: dict[str, str] = {}
        self._last_numbers: dict[str, int] = {}
        self.sequence = 0
        self.last_task = 0
        self.newest_task = 0

    async def load(self, log: EventLog) -> None:
        if self._snapshots is not None:
            self._created_at = await log.created_at()
            found = self._snapshots.load(created_at=self._created_at, last_sequence=await log.last_sequence())
            if found is not None:
                self._restore(*found)
        async for records in log.replay(after=self.sequence, entities=ENTITIES):
            for record in records:
                self.apply(record)
        self.save()

    def save(self, *, least: int = DECISIONS_BETWEEN_SNAPSHOTS) -> None:
        """Keep a snapshot, if at least so many decisions came since the last one."""
        if self._snapshots is None or self._created_at is None or self._since_saved < max(1, least):
            return
        snapshot = BoardSnapshot(
            projects=[(project, self._revisions[PROJECT.name, id]) for id, project in self.projects.items()],
            tasks=[(task, self._revisions[TASK.name, id]) for id, task in self.tasks.items()],
            breakers=[(breaker, self._revisions[BREAKER.name, id]) for id, breaker in self.breakers.items()],
            traces=self.traces,
        )
        self._snapshots.save(snapshot, created_at=self._created_at, sequence=self.sequence)
        self._since_saved = 0

    def _restore(self, snapshot: BoardSnapshot, sequence: int) -> None:
        for project, revision in snapshot.projects:
            self.put_project(project, revision)
        for task, revision in snapshot.tasks:
            self.put_task(task, revision)
        for breaker, revision in snapshot.breakers:
            self.put_breaker(breaker, revision)
        self.traces.update(snapshot.traces)
        self.sequence = sequence
        self.last_task = max((revision for _, revision in snapshot.tasks), default=0)

    async def follow(self, log: EventLog, changed: Callable[[], None]) -> Following:
        def deliver(record: Recorded) -> None:
            if self.apply(record):
                changed()

        return await log.follow(deliver, after=self.sequence, entities=ENTITIES)

    def apply(self, record: Recorded) -> bool:
        """Fold one record; False where it is known already."""
        envelope = record.envelope
        self.sequence = max(self.sequence, record.sequence)
        self._since_saved += 1
        if envelope.entity == TASK.name:
            self.last_task = max(self.last_task, record.sequence)
        if envelope.entity == TASK.name and envelope.trace:
            self.traces.setdefault(envelope.entity_id, envelope.trace)
        if record.sequence <= self._revisions.get((envelope.entity, envelope.entity_id), 0):
            return False
        if envelope.entity == TASK.name:
            task = self.tasks.get(envelope.entity_id) or TASK.initial(envelope.entity_id)
            self.put_task(TASK.fold_onto(task, envelope.events), record.sequence)
        elif envelope.entity == PROJECT.name:
            project = self.projects.get(envelope.entity_id) or PROJECT.initial(envelope.entity_id)
            self.put_project(PROJECT.fold_onto(project, envelope.events), record.sequence)
        elif envelope.entity == BREAKER.name:
            breaker = self.breakers.get(envelope.entity_id) or BREAKER.initial(envelope.entity_id)
            self.put_breaker(BREAKER.fold_onto(breaker, envelope.events), record.sequence)
        return True

    def put_task(self, task: Task, revision: int) -> None:
        self.newest_task = max(self.newest_task, revision)
        if self._newer(TASK.name, task.id, revision) and task.submitted is not None:
            self.tasks[task.id] = task
            self._submissions[task.submitted.submission_id] = task.id
            prefix = task.id.rpartition("-")[0]
            self._last_numbers[prefix] = max(self._last_numbers.get(prefix, 0), task.submitted.number)

    def put_project(self, project: Project, revision: int) -> None:
        if self._newer(PROJECT.name, project.id, revision) and project.settings is not None:
            self.projects[project.id] = project

    def put_breaker(self, breaker: Breaker, revision: int) -> None:
        if self._newer(BREAKER.name, breaker.id, revision):
            self.breakers[breaker.id] = breaker

    def task_of_submission(self, submission_id: str) -> str | None:
        return self._submissions.get(submission_id)

    def next_number(self, prefix: str) -> int:
        return self._last_numbers.get(prefix, 0) + 1

    def _newer(self, entity: str, id: str, revision: int) -> bool:
        if revision <= self._revisions.get((entity, id), 0):
            return False
        self._revisions[entity, id] = revision
        return True
