"""Asking probes: once, or all the while.

That a probe cannot be asked is a failure of the probe, said as such: a system that cannot be looked at is not steady.
Samples are counted where they are taken and recorded in batches; only those that did not hold are kept in words.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from datetime import datetime

from events.errors import CairnError
from events.experiment import MAX_FAILURES, Probed, SamplesRecorded
from infra.ports import Clock
from services.chaos.document import Command, Continuous, Guard, Probe
from services.chaos.ports import Commands, World
from services.chaos.tolerances import Answer, Regex, Tolerance, why_not

VALUE_CHARACTERS = 2_000
# What a probe is given beyond its own time limit.
MARGIN_SECONDS = 5.0
PATTERN_SECONDS = 0.5


class Prober:
    """Asks probes on behalf of one experiment. ``key`` makes the calls that its commands become distinct."""

    def __init__(
        self, world: World, commands: Commands, clock: Clock, experiment_id: str, target: str, key: str
    ) -> None:
        self._world = world
        self._commands = commands
        self._clock = clock
        self._experiment_id = experiment_id
        self._target = target
        self._key = key
        self._asked = 0

    async def ask(self, probe: Probe) -> Probed:
        """Never raises but for cancellation."""
        at = self._clock.now()
        try:
            async with asyncio.timeout(probe.provider.timeout + MARGIN_SECONDS):
                answer = await self._answer(probe)
            detail = _why_not(probe.tolerance, answer)
        except CairnError as error:
            answer, detail = Answer(value="", failed=True), f"it could not be asked: {error}"
        except TimeoutError:
            answer, detail = Answer(value="", failed=True), f"no answer within {probe.provider.timeout:g} s"
        return Probed(
            name=probe.name,
            held=not detail,
            at=at,
            milliseconds=round((self._clock.now() - at).total_seconds() * 1000),
            value=_shown(answer),
            detail=detail,
        )

    async def _answer(self, probe: Probe) -> Answer:
        if isinstance(probe.provider, Command) and not probe.provider.service:
            self._asked += 1
            call_id = f"{self._experiment_id}-{self._key}-{self._asked}"
            return await self._commands.run(self._target, self._experiment_id, call_id, probe.provider)
        return await self._world.ask(self._target, probe.provider)


def _why_not(tolerance: Tolerance | None, answer: Answer) -> str:
    """As ``why_not``; a pattern that takes for ever, as some do on some texts, does not hold. Only a signal gets
    through to the engine of patterns, which asks for them as it goes."""
    if not isinstance(tolerance, Regex):
        return why_not(tolerance, answer)
    previous = signal.signal(signal.SIGALRM, _expired)
    timer = signal.setitimer(signal.ITIMER_REAL, PATTERN_SECONDS)
    try:
        return why_not(tolerance, answer)
    except PatternExpired:
        return f"the pattern {tolerance.pattern} took longer than {PATTERN_SECONDS:g} s"
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, previous)


class PatternExpired(Exception):
    """A pattern took too long."""


def _expired(number: int, frame: object) -> None:
    raise PatternExpired


def _shown(answer: Answer) -> str:
    value = str(answer.value).lower() if isinstance(answer.value, bool) else str(answer.value)
    text = f"{value}: {answer.text.strip()}" if answer.text.strip() else value
    return text if len(text) <= VALUE_CHARACTERS else f"{text[: VALUE_CHARACTERS - 1]}…"


class Sampling:
    """One probe, sampled all the while from ``start`` to ``stop``; what was seen since is ``taken`` from it."""

    def __init__(self, prober: Prober, continuous: Continuous, clock: Clock) -> None:
        self._prober = prober
        self._continuous = continuous
        self._clock = clock
        self._count = 0
        self._failed = 0
        self._failures: list[Probed] = []
        self._last: Probed | None = None
        self._began_at = clock.now()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._began_at = self._clock.now()
            self._task = asyncio.create_task(every(self._continuous.interval_seconds, self._clock, self._sample))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _sample(self) -> None:
        probed = await self._prober.ask(self._continuous.probe)
        self._count += 1
        if not probed.held:
            self._failed += 1
            self._last = probed
            if len(self._failures) < MAX_FAILURES:
                self._failures.append(probed)

    def take(self) -> SamplesRecorded | None:
        """What was seen since it was taken last; None where nothing was."""
        if not self._count:
            return None
        failures = [*self._failures]
        if self._last is not None and self._last not in failures:
            failures[-1] = self._last  # When it failed last matters more than another example.
        now = self._clock.now()
        taken = SamplesRecorded(
            probe=self._continuous.probe.name,
            began_at=self._began_at,
            ended_at=now,
            count=self._count,
            failed=self._failed,
            failures=tuple(failures),
        )
        self._count, self._failed, self._failures, self._last, self._began_at = 0, 0, [], None, now
        return taken


class Guarding:
    """A stop condition, watched all the while; ``tripped`` is called once, with the answer that was too much."""

    def __init__(self, prober: Prober, guard: Guard, clock: Clock, tripped: Callable[[Probed], None]) -> None:
        self._prober = prober
        self._guard = guard
        self._tripped = tripped
        self._in_a_row = 0
        self._task = asyncio.create_task(every(guard.interval_seconds, clock, self._look))

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _look(self) -> None:
        probed = await self._prober.ask(self._guard.probe)
        self._in_a_row = 0 if probed.held else self._in_a_row + 1
        if self._in_a_row == self._guard.failures:
            self._tripped(probed)


async def every(seconds: float, clock: Clock, work: Callable[[], Awaitable[None]]) -> None:
    """Do ``work`` at that interval, for ever; what takes longer is not made up for."""
    while True:
        began: datetime = clock.now()
        await work()
        await clock.sleep(max(0.01, seconds - (clock.now() - began).total_seconds()))
