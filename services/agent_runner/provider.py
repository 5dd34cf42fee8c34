"""A run and its provider: it calls only where the breaker of its credential lets it, and tells what the provider did.

What is told is decided by the scheduler; an answer is told of only where that changes something, so that a provider
that works costs nothing.
"""

from __future__ import annotations

from events import subjects
from events.agents import Agent
from events.breaker import BREAKER, Breaker, RecordProviderAnswer, RecordProviderFault, RequestProbe, credential_of
from events.kernel import Command
from events.run import RunStarved, RunTimedOut
from services.agent_runner.driver import Driver
from services.agent_runner.ending import Ending

ASK_AGAIN_SECONDS = 5.0


class Provider:
    """The provider of a run's agent. One that needs no credential has no breaker."""

    def __init__(self, driver: Driver, agent: Agent) -> None:
        self._driver = driver
        self._breakers = driver.plumbing.breakers
        self._credential = credential_of(agent)

    async def may_call(self) -> None:
        """Wait until the run may call its provider; where the breaker's time is over, ask to be its probe. Raises
        ``Ending``: a run whose time ends here did not get any, and that time mends."""
        if self._credential is None:
            return
        await self._breakers.begin(self._credential.id)
        try:
            while not self._present.lets(self._driver.id):
                await self._wait()
        except Ending as ending:
            if not isinstance(ending.event, RunTimedOut):
                raise
            breaker = self._present
            raise Ending(
                RunStarved(failures=len(breaker.faults), cause=breaker.cause, detail=breaker.detail)
            ) from ending

    async def _wait(self) -> None:
        assert self._credential is not None
        until = self._present.until
        seconds = (until - self._driver.plumbing.clock.now()).total_seconds() if until is not None else 0.0
        if seconds <= 0:
            await self._send(RequestProbe(run_id=self._driver.id), "probe")
            seconds = ASK_AGAIN_SECONDS
        id = self._credential.id
        if not self._present.lets(self._driver.id):
            await self._driver.interruptible(
                lambda: self._breakers.change(id, seconds), limit_seconds=seconds + ASK_AGAIN_SECONDS
            )

    async def flinched(self, *, cause: str, detail: str, retry_after_seconds: float) -> None:
        """Tell of a transient failure: before it is recorded in the run, so that none is lost; of one that comes
        again for want of that record, the name is the same."""
        if self._credential is None:
            return
        run = self._driver.run
        command = RecordProviderFault(
            credential=self._credential.name,
            run_id=run.id,
            fault_id=f"{run.id}-{run.steps}-{run.model_failures + 1}",
            cause=cause,
            detail=detail,
            retry_after_seconds=retry_after_seconds,
        )
        await self._send(command, "flinched")

    async def answered(self) -> None:
        """Tell that the provider is there, whatever it said."""
        if self._credential is None:
            return
        await self._breakers.begin(self._credential.id)
        breaker = self._present
        if breaker.faults and breaker.lets(self._driver.id):
            await self._send(RecordProviderAnswer(run_id=self._driver.id), "answered")

    @property
    def _present(self) -> Breaker:
        assert self._credential is not None
        return self._breakers.known(self._credential.id)

    async def _send(self, command: Command, name: str) -> None:
        assert self._credential is not None
        driver = self._driver
        await driver.send(
            subjects.SCHEDULER, subjects.ANY, BREAKER.name, self._credential.id, command, f"{driver.id}-{name}"
        )
