"""Containers frozen."""

from __future__ import annotations

import asyncio

import pytest

from events.errors import Permanent
from events.faults import PauseService
from tests.docker.ground import Ground

pytestmark = pytest.mark.integration


async def test_nobody_answers_until_it_goes_on(ground: Ground) -> None:
    """While a service is paused a connection to it stays open and silent; afterwards it goes on."""
    await ground.up("api", "database")
    async with ground.conversation("api", "database") as talked:
        await ground.inject(PauseService(service="database", duration_seconds=60))
        assert (await ground.state("database"))["Paused"]
        await asyncio.sleep(0.5)
        await ground.undo()
    assert talked["error"] == ""
    assert talked["gap"] > 0.5
    assert not (await ground.state("database"))["Paused"]


async def test_what_others_paused_stays_theirs(ground: Ground) -> None:
    """A container that somebody else has paused is refused, and stays paused; one that somebody else lets go on while
    the fault holds is as it should be at the end."""
    await ground.up("api")
    await ground.engine.pause(ground.made["api"])
    with pytest.raises(Permanent, match="api-1 is paused already, by somebody else"):
        await ground.inject(PauseService(service="api", duration_seconds=60))
    assert (await ground.state("api"))["Paused"]
    await ground.engine.unpause(ground.made["api"])
    await ground.inject(PauseService(service="api", duration_seconds=60))
    await ground.engine.unpause(ground.made["api"])
    await ground.undo()
    assert not (await ground.state("api"))["Paused"]


async def test_several_undo_it_at_once(ground: Ground) -> None:
    """Service and reaper undo the same pause in the same moment: it is undone, and for none of them it is stuck."""
    await ground.up("api")
    for _ in range(4):
        await ground.inject(PauseService(service="api", duration_seconds=60))
        undone = await asyncio.gather(*(ground.another().undo(f"{ground.environment}-f1") for _ in range(4)))
        assert [each.stuck for each in undone] == [()] * 4
        assert not (await ground.state("api"))["Paused"]
