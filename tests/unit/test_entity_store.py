"""What an entity store keeps is never less than what it was read from."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from events.envelope import Envelope, Recorded
from events.errors import RevisionConflict, Transient
from events.task import TaskCancelled, TaskReopened
from events.task_state import TASK, Task
from infra.clock import SystemClock
from infra.entities import Cause, EntityStore
from infra.memory.event_log import MemoryEventLog

CANCELLED = TaskCancelled(reason="not wanted")


class SlowLog(MemoryEventLog):
    """Its reads wait until they are let through; its appends fail once they are stored, where ``unanswered``."""

    def __init__(self) -> None:
        super().__init__("default", SystemClock())
        self.through = asyncio.Event()
        self.through.set()
        self.unanswered = False

    async def load(self, entity: str, id: str, *, after: int = 0) -> list[Recorded]:
        await self.through.wait()
        return await super().load(entity, id, after=after)

    async def append(self, envelope: Envelope, *, expected: int, of_kind: bool = False) -> int:
        sequence = await super().append(envelope, expected=expected, of_kind=of_kind)
        if self.unanswered:
            message = "the answer was lost"
            raise Transient(message)
        return sequence


def _store(log: MemoryEventLog) -> EntityStore[Task]:
    return EntityStore(log, TASK, SystemClock())


async def test_state_is_whole_where_what_was_kept_is_thrown_away_while_it_is_read() -> None:
    """A lost answer throws away what is kept; a read under way must not fold what it gets onto nothing."""
    log = SlowLog()
    store = _store(log)
    await store.decide("shop-1", Cause(id="d1"), lambda _: (CANCELLED,))
    log.through.clear()
    reading = asyncio.create_task(store.load("shop-1"))
    await asyncio.sleep(0)
    log.unanswered = True
    with pytest.raises(Transient):
        await store.decide("shop-1", Cause(id="d2"), lambda _: (TaskReopened(stages=()),))
    log.through.set()
    state, revision = await reading
    assert (state.reopened, revision) == (True, 2)


async def test_a_decision_about_the_whole_kind_is_not_made_again() -> None:
    """What it stood on is not what holds any more: whoever made it has to look at everything again."""
    log = SlowLog()
    store, other = _store(log), _store(log)
    first = await store.decide("shop-1", Cause(id="d1"), lambda _: (CANCELLED,))
    await other.decide("shop-2", Cause(id="d2"), lambda _: (CANCELLED,))
    asked: list[Any] = []

    def decide(task: Task) -> tuple[TaskReopened, ...]:
        asked.append(task)
        return (TaskReopened(stages=()),)

    with pytest.raises(RevisionConflict):
        await store.decide("shop-1", Cause(id="d3"), decide, last_of_kind=first.revision)
    assert len(asked) == 1
