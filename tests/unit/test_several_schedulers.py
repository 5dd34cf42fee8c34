"""Schedulers beside one another: what one has just made, another knows as soon as it is asked about it."""

from __future__ import annotations

import pytest

from events.envelope import CommandEnvelope, Outcome
from events.errors import Invalid
from events.kernel import Command
from events.project import AddProject
from infra.clock import SystemClock
from infra.hosts import Hosts
from infra.memory.plumbing import Memory
from infra.sender import Sender
from infra.settings import Scheduling
from services.scheduler.board import Board
from services.scheduler.handlers import Handlers
from tests.unit.examples import AGENT, NOW, settings, submit


class Agents:
    def known(self) -> dict[str, object]:
        return {"coder": AGENT}


class Schedulers:
    """Each with a board of its own, to which nothing comes from the log."""

    def __init__(self, count: int) -> None:
        memory, clock = Memory(), SystemClock()
        self._count = 0
        self._handlers = [
            Handlers(
                memory.log,
                Sender(memory.commands, clock, tenant="default", name="scheduler"),
                clock,
                Board(),
                Agents(),  # type: ignore[arg-type]
                Hosts(memory.hosts, clock, own="", lease_seconds=15.0),
                lambda: None,
                Scheduling(),
            )
            for _ in range(count)
        ]

    async def ask(self, scheduler: int, entity: str, id: str, command: Command) -> Outcome:
        self._count += 1
        return await self._handlers[scheduler].handle(
            CommandEnvelope(
                id=f"person-{self._count}",
                tenant="default",
                entity=entity,
                entity_id=id,
                time=NOW,
                command=command,
                actor="ada",
            )
        )


async def test_project_and_tasks_of_another_scheduler_are_known() -> None:
    """Whichever of them is asked, at once; what is nowhere is refused as ever."""
    schedulers = Schedulers(3)
    await schedulers.ask(0, "project", "shop", AddProject(settings=settings()))
    first = await schedulers.ask(1, "project", "shop", submit())
    second = await schedulers.ask(2, "project", "shop", submit(depends_on=(first.entity_id,)))
    assert (first.entity_id, second.entity_id) == ("shop-1", "shop-2")
    with pytest.raises(Invalid, match="no task 'shop-9' to depend on"):
        await schedulers.ask(0, "project", "shop", submit(depends_on=("shop-9",)))
