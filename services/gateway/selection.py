"""Selections of the log: which decisions a reader wants, and how to find those that are there already.

A selection of named entities reads just their subjects; any other one goes through the log from where the reader
stands.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import msgspec

from events.envelope import Recorded
from events.run import RUN
from events.task import CheckRequested, RunRequested
from events.task_state import TASK
from infra.ports import EventLog
from services.gateway.answers import Problem
from services.gateway.views import checked_entity, checked_id

ENVIRONMENT = "environment"
PULL_REQUEST = "pull_request"
# What a board shows: runs and environments only show through their tasks.
BOARD = ("project", "task", PULL_REQUEST, "delivery")

Named = tuple[str, str]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """``matches`` says whether a decision is wanted. ``named`` finds the entities whose subjects hold all that is
    wanted; where it is None, those of ``entities`` are gone through (all where that is empty)."""

    matches: Callable[[Recorded], bool]
    entities: tuple[str, ...] = ()
    named: Callable[[EventLog], AsyncIterator[Named]] | None = None

    async def history(
        self, log: EventLog, *, after: int, until: int | None = None
    ) -> AsyncGenerator[list[Recorded], None]:
        """What is wanted and there with ``after`` < sequence ≤ ``until``, in order, in batches."""
        if self.named is not None:
            records = [record async for name in self.named(log) for record in await log.load(*name, after=after)]
            found = (record for record in records if until is None or record.sequence <= until)
            yield sorted(filter(self.matches, found), key=lambda record: record.sequence)
            return
        async with aclosing(log.replay(after=after, until=until, entities=self.entities)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                wanted = [record for record in batch if self.matches(record)]
                if wanted:
                    yield wanted


def everything(entities: tuple[str, ...] = ()) -> Selection:
    return Selection(matches=lambda record: not entities or record.envelope.entity in entities, entities=entities)


def one(entity: str, id: str) -> Selection:
    return exactly((entity, id))


def task(id: str) -> Selection:
    """A task, its runs, environments and pull request: their ids begin with the task's and a stage's name."""

    def matches(record: Recorded) -> bool:
        entity, entity_id = record.envelope.entity, record.envelope.entity_id
        if entity in (TASK.name, PULL_REQUEST):
            return entity_id == id
        # Stages' names begin with a letter, so that a task of a project named `shop-7` is not one of `shop-7`.
        belongs = entity_id.startswith(id + "-") and entity_id[len(id) + 1 :][:1].isalpha()
        return belongs and entity in (RUN.name, ENVIRONMENT)

    async def named(log: EventLog) -> AsyncIterator[Named]:
        found: dict[Named, None] = {(TASK.name, id): None, (PULL_REQUEST, id): None}
        for record in await log.load(TASK.name, id):
            for event in record.envelope.events:
                if isinstance(event, RunRequested):
                    found[RUN.name, event.run_id] = None
                if isinstance(event, RunRequested | CheckRequested):
                    found[ENVIRONMENT, event.environment_id] = None
        for name in found:
            yield name

    return Selection(matches=matches, named=named)


def run(id: str) -> Selection:
    """A run, and of its environment what concerns it: its own calls and what befell the environment."""
    environment_id = environment_of(id)

    def matches(record: Recorded) -> bool:
        envelope = record.envelope
        if envelope.entity == RUN.name:
            return envelope.entity_id == id
        if envelope.entity != ENVIRONMENT or envelope.entity_id != environment_id:
            return False
        return any(getattr(event, "run_id", id) == id for event in envelope.events)

    return msgspec.structs.replace(exactly((RUN.name, id), (ENVIRONMENT, environment_id)), matches=matches)


def environment_of(run_id: str) -> str:
    """The environment of a run or check: ``shop-7-development`` of ``shop-7-development-1`` (``events.names``)."""
    return run_id.removesuffix("-check").rpartition("-")[0]


def exactly(*names: Named) -> Selection:
    """The named entities, whole."""

    async def named(_: EventLog) -> AsyncIterator[Named]:
        for name in names:
            yield name

    return Selection(matches=lambda record: (record.envelope.entity, record.envelope.entity_id) in names, named=named)


def narrowed(selection: Selection, entity: str) -> Selection:
    """Only the decisions of ``entity`` among those of ``selection``."""
    return msgspec.structs.replace(
        selection, matches=lambda record: record.envelope.entity == entity and selection.matches(record)
    )


def selected(
    *, entity: str | None, id: str | None, task_id: str | None, run_id: str | None, environment_id: str | None
) -> Selection:
    """The selection that the query parameters of an address ask for. Raises ``Problem``."""
    kind = checked_entity(entity) if entity is not None else None
    given = {"id": id, "task": task_id, "run": run_id, "environment": environment_id}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) > 1:
        detail = f"{' and '.join(chosen)} cannot be combined: each selects by itself; use one."
        raise _invalid(detail)
    if id is not None and kind is None:
        detail = "`id` needs `entity`, for example ?entity=task&id=shop-7."
        raise _invalid(detail)
    if id is not None and kind is not None:
        return one(kind, checked_id(id, kind))
    if task_id is not None:
        found = task(checked_id(task_id, "task"))
    elif run_id is not None:
        found = run(checked_id(run_id, "run"))
    elif environment_id is not None:
        found = one(ENVIRONMENT, checked_id(environment_id, "environment"))
    else:
        return everything((kind,) if kind else ())
    return narrowed(found, kind) if kind else found


def _invalid(detail: str) -> Problem:
    return Problem(422, "invalid", detail)
