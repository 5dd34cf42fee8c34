"""Who is there, and who must be counted as gone."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from events.preflight import Finding
from infra.hosts import Hosts
from infra.memory.host_registry import MemoryHostRegistry
from tests.clocks import MovedClock

LEASE_SECONDS = 10.0


class Moved(MovedClock):
    """Moved on by every sleep too."""

    async def sleep(self, seconds: float) -> None:
        self.by += timedelta(seconds=seconds)
        await asyncio.sleep(0)


def hosts() -> tuple[Hosts, MemoryHostRegistry, Moved]:
    clock = Moved()
    registry = MemoryHostRegistry(clock)
    return Hosts(registry, clock, own="b", lease_seconds=LEASE_SECONDS), registry, clock


async def test_host_is_gone_after_a_lease_of_silence() -> None:
    """Not before, and whoever asks is never gone itself."""
    here, registry, clock = hosts()
    registry.announce("a")
    await clock.sleep(9.0)
    assert not await here.is_gone("a")
    await clock.sleep(1.5)
    assert await here.is_gone("a")
    assert not await here.is_gone("b")


async def test_who_was_cut_off_listens_before_it_judges() -> None:
    """After an outage everyone was silent: those who live get the chance to be heard."""
    here, _, clock = hosts()
    await clock.sleep(60.0)
    here.reconnected()
    assert not await here.is_gone("a")
    await clock.sleep(LEASE_SECONDS / 2)
    assert await here.is_gone("a")


async def test_host_that_falls_silent_is_waited_for() -> None:
    """One that was heard lately lives; of one that was not, the lease tells."""
    here, registry, clock = hosts()
    registry.announce("a")
    assert not await here.settled_gone("a")
    await clock.sleep(6.0)
    began = clock.now()
    assert await here.settled_gone("a")
    assert 3.5 < (clock.now() - began).total_seconds() < 5.0


async def test_living_hosts_are_named_the_one_heard_last_first() -> None:
    """Whoever needs any host takes the first."""
    here, registry, clock = hosts()
    registry.announce("a")
    await clock.sleep(9.0)
    registry.announce("c")
    await clock.sleep(0.5)
    registry.announce("d", b'{"programs":{"claude":{"problem":"it is not there"}}}')
    assert await here.living() == ["d", "c", "a"]
    await clock.sleep(1.0)
    assert await here.living() == ["d", "c"]
    assert await here.preflights() == {"d": {"claude": Finding(problem="it is not there")}}
