"""What the scheduler knows: every project and task, folded from the log and kept up to date.

The board begins with a replay and follows the log from there. The scheduler's own decisions are put in at once, so
that placement never works with less than what was just decided; the same records coming back are skipped.
"""

from __future__ import annotations

from collections.abc import Callable

from events.envelope import Recorded
from events.project import PROJECT, Project
from events.task_state import TASK, Task
from infra.ports import EventLog, Following

ENTITIES = (PROJECT.name, TASK.name)


class Board:
    def __init__(self) -> None:
        self.projects: dict[str, Project] = {}
        self.tasks: dict[str, Task] = {}
        # Task → the trace that its submission began, so that everything done for it later belongs to it.
        self.traces: dict[str, str] = {}
        self._revisions: dict[tuple[str, str], int] = {}
        self._submissions: dict[str, str] = {}
        self._last_numbers: dict[str, int] = {}
        self.sequence = 0

    async def load(self, log: EventLog) -> None:
        async for records in log.replay(entities=ENTITIES):
            for record in records:
                self.apply(record)

    async def follow(self, log: EventLog, changed: Callable[[], None]) -> Following:
        def deliver(record: Recorded) -> None:
            if self.apply(record):
                changed()

        return await log.follow(deliver, after=self.sequence, entities=ENTITIES)

    def apply(self, record: Recorded) -> bool:
        """Fold one record; False where it is known already."""
        envelope = record.envelope
        self.sequence = max(self.sequence, record.sequence)
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
        return True

    def put_task(self, task: Task, revision: int) -> None:
        if self._newer(TASK.name, task.id, revision) and task.submitted is not None:
            self.tasks[task.id] = task
            self._submissions[task.submitted.submission_id] = task.id
            prefix = task.id.rpartition("-")[0]
            self._last_numbers[prefix] = max(self._last_numbers.get(prefix, 0), task.submitted.number)

    def put_project(self, project: Project, revision: int) -> None:
        if self._newer(PROJECT.name, project.id, revision) and project.settings is not None:
            self.projects[project.id] = project

    def task_of_submission(self, submission_id: str) -> str | None:
        return self._submissions.get(submission_id)

    def next_number(self, prefix: str) -> int:
        return self._last_numbers.get(prefix, 0) + 1

    def _newer(self, entity: str, id: str, revision: int) -> bool:
        if revision <= self._revisions.get((entity, id), 0):
            return False
        self._revisions[entity, id] = revision
        return True
