"""Whoever watches the faults, in virtual time: when they are undone, what is stuck, an engine that is away."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection

import msgspec

from events.faults import AddLatency, AnyFault, PauseService
from services.chaos.ports import Undone
from services.chaos.watch import AWAY_SECONDS, LONGEST_RETRY_SECONDS, LOOK_SECONDS, Watch
from tests.simulation.loop import VirtualLoop
from tests.unit.chaos_twins import ENVIRONMENT_ID, LoopClock, MemoryFaults

PAUSE = PauseService(service="api", duration_seconds=30)


class Watched:
    """Faults with somebody who watches; ``told`` are what was undone or stuck, with the seconds since the start."""

    def __init__(self, *, known: Callable[[], Collection[str] | None] = lambda: None) -> None:
        self.clock = LoopClock()
        self.faults = MemoryFaults(self.clock)
        self.told: list[tuple[float, Undone]] = []
        self.missing: list[str] = []
        self._watch = Watch(self.faults, self.clock, known=known, undone=self._tell, missing=self._miss)
        self._running = asyncio.create_task(self._watch.run())

    async def inject(self, fault: AnyFault, fault_id: str = "f1") -> None:
        until = self.clock.now().timestamp() + fault.duration_seconds
        whom = await self.faults.resolve(ENVIRONMENT_ID, fault)
        await self.faults.inject(fault_id, fault, whom, until)

    async def until(self, seconds: float) -> None:
        await asyncio.sleep(seconds - asyncio.get_running_loop().time())

    async def stop(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def _tell(self, undone: Undone, reason: str) -> None:
        self.told.append((asyncio.get_running_loop().time(), undone))

    async def _miss(self, fault_id: str) -> None:
        self.missing.append(fault_id)


def watched(work: Callable[[Watched], Awaitable[None]], known: Collection[str] | None = None) -> None:
    """Run ``work`` beside somebody who watches."""

    async def all_of_it() -> None:
        watched = Watched(known=lambda: known)
        try:
            await work(watched)
        finally:
            await watched.stop()

    VirtualLoop().finish(all_of_it())


def test_undone_on_time() -> None:
    """A fault is undone at its very end, not at the next look; once, and told once."""

    async def work(watched: Watched) -> None:
        await watched.inject(PauseService(service="api", duration_seconds=5.3))
        await watched.until(30)
        ((at, undone),) = watched.told
        assert 5.3 <= at < 5.3 + LOOK_SECONDS / 2
        assert undone == Undone(fault_id="f1", seconds=0.1)

    watched(work)


def test_stuck_is_tried_again_ever_more_rarely() -> None:
    """What cannot be undone is told each time that it was tried, at last once a minute, and goes when it can."""

    async def work(watched: Watched) -> None:
        await watched.inject(PAUSE)
        watched.faults.sticky.add("f1")
        await watched.until(600)
        tried = [at for at, _ in watched.told]
        waited = [after - before for before, after in itertools.pairwise(tried)]
        assert 8 < len(tried) < 20
        assert waited[0] < 5
        assert LONGEST_RETRY_SECONDS <= waited[-1] < LONGEST_RETRY_SECONDS + 2 * LOOK_SECONDS
        assert all(undone.stuck for _, undone in watched.told)
        watched.faults.sticky.clear()
        await watched.until(700)
        assert watched.told[-1][1].stuck == ()
        assert watched.faults.records == {}

    watched(work)


def test_an_engine_that_dies_in_the_middle() -> None:
    """While no engine answers nothing is done and nobody fails; a fault that became due meanwhile is undone as soon as
    one answers again."""

    async def work(watched: Watched) -> None:
        await watched.inject(PAUSE)
        watched.faults.away = True
        await watched.until(100)
        assert watched.told == []
        watched.faults.away = False
        await watched.until(100 + AWAY_SECONDS + 1)
        assert [undone.stuck for _, undone in watched.told] == [()]

    watched(work)


def test_what_the_log_knows_decides_too() -> None:
    """A fault that the log does not know is undone at once; one that only the log knows is told as missing."""

    async def work(watched: Watched) -> None:
        await watched.inject(PAUSE, "unknown")
        await watched.until(4)
        assert [undone.fault_id for _, undone in watched.told] == ["unknown"]
        assert set(watched.missing) == {"lost"}

    watched(work, known={"lost"})


def test_who_started_anew_is_hit_again() -> None:
    """A fault in a network is held on when its container is not the one that was hit."""

    async def work(watched: Watched) -> None:
        await watched.inject(AddLatency(service="api", delay_milliseconds=10, duration_seconds=30))
        (api, *others) = watched.faults.containers_of[ENVIRONMENT_ID]
        assert ("renew", "f1") not in {each[:2] for each in watched.faults.history}
        anew = msgspec.structs.replace(api, started_at="anew")
        watched.faults.containers_of[ENVIRONMENT_ID] = (anew, *others)
        await watched.until(5)
        assert ("renew", "f1") in {each[:2] for each in watched.faults.history}

    watched(work)
