"""What this host tells of the programs of agents with its signs of life: each is tried every few seconds.

A program that is named relative to the working copy is none of the host's, and where work is done in containers unless
a project says otherwise, the host's programs say nothing: of those nothing is told, and what is not told keeps nothing
from being started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from events.agents import Agent, ProgramAgent
from events.errors import Invalid
from events.preflight import Finding, Sign
from infra.ports import Clock

logger = structlog.get_logger()

Try = Callable[[str, Sequence[str]], Awaitable[Finding]]


class Preflight:
    """``agents`` gives those that are configured now, and raises ``Invalid`` where they cannot be read. ``contained``
    says whether work that leaves it open is done in containers here."""

    def __init__(
        self,
        agents: Callable[[], Mapping[str, Agent]],
        attempt: Try,
        clock: Clock,
        *,
        seconds: float,
        contained: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._contained = contained
        self._agents = agents
        self._attempt = attempt
        self._clock = clock
        self._seconds = seconds
        self._sign = Sign()

    def sign(self) -> Sign:
        return self._sign

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await self._clock.sleep(self._seconds)
            await self.look()

    async def look(self) -> None:
        if self._contained is not None and await self._contained():
            self._sign = Sign()
            return
        try:
            programs = _programs(self._agents().values())
        except Invalid as error:
            logger.warning("the programs of agents are not known", error=str(error))
            return
        findings = await asyncio.gather(*(self._attempt(name, arguments) for name, arguments in programs.items()))
        found = dict(zip(programs, findings, strict=True))
        for name, finding in found.items():
            if finding.problem and finding != self._sign.programs.get(name):
                logger.warning("a program of agents cannot be run", program=name, problem=finding.problem)
        self._sign = Sign(programs=found)


def _programs(agents: Iterable[Agent]) -> dict[str, tuple[str, ...]]:
    """The programs that can be tried here, with the arguments to try each with."""
    found: dict[str, tuple[str, ...]] = {}
    for agent in agents:
        if isinstance(agent, ProgramAgent) and agent.command and _is_of_host(agent.command[0]):
            found.setdefault(agent.command[0], agent.preflight)
    return found


def _is_of_host(program: str) -> bool:
    return "/" not in program or Path(program).is_absolute()
