"""Processes as the outside sees them: each use of a port may be the last, the answer may be lost, and time stands
still for a process that is frozen. ``tests.simulation.ports`` has the ports.

A process is never told that it died: the future that it waits for is never answered, so that no ``finally`` of it has
any effect. What it had sent before may still arrive. ``Faults`` decides, by seed, what happens at each step; it knows
nothing of what the steps mean.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from events.errors import Transient
from infra.memory.plumbing import Memory

T = TypeVar("T")

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


class TrueClock:
    """The clock of the log and of the queues: it never jumps."""

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=asyncio.get_running_loop().time())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class Faults:
    """How often what goes wrong, each as a probability at a step of some process. ``left`` bounds them all."""

    random: random.Random
    left: int = 0
    crash: float = 0.0
    freeze: float = 0.0
    unanswered: float = 0.0
    unreachable: float = 0.0
    lost: float = 0.0
    twice: float = 0.0
    slow: float = 0.0
    latency_seconds: float = 0.003

    @classmethod
    def of(cls, chance: random.Random) -> Faults:
        """Every seed has its own mixture; some have one kind only, some none."""

        def rate(highest: float) -> float:
            return chance.choice((0.0, 0.3, 1.0)) * highest

        return cls(
            random=chance,
            left=chance.choice((0, 5, 10, 20, 30)),
            crash=rate(0.03),
            freeze=rate(0.01),
            unanswered=rate(0.03),
            unreachable=rate(0.03),
            lost=rate(0.05),
            twice=rate(0.05),
            slow=rate(0.03),
            latency_seconds=chance.choice((0.001, 0.003, 0.02)),
        )

    def strikes(self, probability: float) -> bool:
        if self.left <= 0 or not probability or self.random.random() >= probability:
            return False
        self.left -= 1
        return True

    def delay_seconds(self, *, longest: float = 2.0) -> float:
        """A message's time on the wire; now and then it takes very long."""
        if self.strikes(self.slow):
            return self.random.uniform(0.0, longest)
        return self.random.random() * self.latency_seconds


@dataclass
class Network:
    """What all processes share: the plumbing, the faults, the trace of every step, and what was acknowledged."""

    memory: Memory
    faults: Faults
    trace: list[tuple[Any, ...]] = field(default_factory=list)
    acknowledged: list[tuple[int, str]] = field(default_factory=list)
    over: bool = False
    # What the dead wait for: kept, so that nobody collects them and runs their ``finally``.
    graves: list[asyncio.Future[None]] = field(default_factory=list)

    def note(self, *what: Any) -> None:
        self.trace.append((round(asyncio.get_running_loop().time(), 6), *what))


class Process:
    """One life of a service on a host. ``crash`` ends it between two steps; ``on_crash`` is told once."""

    def __init__(self, network: Network, name: str, host: str, on_crash: Callable[[Process], None]) -> None:
        self.network = network
        self.name = name
        self.host = host
        self.alive = True
        self.frozen_until = 0.0
        self.ahead = timedelta()
        self._closings: list[Callable[[], None]] = []
        self._on_crash = on_crash

    def crash(self) -> None:
        if self.alive:
            self.alive = False
            self.network.note(self.name, "CRASH")
            for close in self._closings:
                close()
            self._on_crash(self)

    def on_end(self, close: Callable[[], None]) -> None:
        """The other side notices that the connection is gone: what was subscribed over it ends."""
        if self.alive:
            self._closings.append(close)
        else:
            close()

    def freeze(self, seconds: float) -> None:
        self.network.note(self.name, "FREEZE", round(seconds, 3))
        self.frozen_until = asyncio.get_running_loop().time() + seconds

    async def awake(self) -> None:
        """Where the process lives and runs: it goes on from here, at once or when it is thawed, or never."""
        loop = asyncio.get_running_loop()
        while self.alive and loop.time() < self.frozen_until:  # noqa: ASYNC110 - time is what is waited for
            await asyncio.sleep(self.frozen_until - loop.time())
        if self.network.over:
            raise asyncio.CancelledError
        if not self.alive:
            never: asyncio.Future[None] = loop.create_future()
            self.network.graves.append(never)
            await never

    async def call(self, what: tuple[Any, ...], effect: Callable[[], Awaitable[T]], *, certain: bool = False) -> T:
        """Use a port: the request travels, has its effect, the answer travels. ``certain`` is for what does not go
        over the network: it cannot fail by itself, but the process may die around it."""
        await self.awake()
        faults, note = self.network.faults, self.network.note
        if faults.strikes(faults.crash):
            if faults.random.random() < 0.5:  # The request had left.
                asyncio.get_running_loop().create_task(self._orphaned(what, effect))
            self.crash()
            await self.awake()
        if faults.strikes(faults.freeze):
            self.freeze(faults.random.uniform(0.5, 20.0))
        if not certain and faults.strikes(faults.unreachable):
            note(self.name, "unreachable", *what)
            await asyncio.sleep(faults.random.random() * 0.05)
            await self.awake()
            message = f"unreachable: {what}"
            raise Transient(message, delay_seconds=faults.random.choice((0.05, 1.0)))
        await asyncio.sleep(faults.delay_seconds())
        note(self.name, *what)
        answer = await effect()
        await asyncio.sleep(faults.delay_seconds())
        if not certain and faults.strikes(faults.unanswered):
            note(self.name, "unanswered", *what)
            await self.awake()
            message = f"no answer: {what}"
            raise Transient(message, delay_seconds=faults.random.choice((0.05, 1.0)))
        await self.awake()
        return answer

    async def _orphaned(self, what: tuple[Any, ...], effect: Callable[[], Awaitable[T]]) -> None:
        await asyncio.sleep(self.network.faults.random.random() * 0.05)
        self.network.note(self.name, "posthumous", *what)
        try:
            await effect()
        except Exception as error:  # noqa: BLE001 - nobody is left to be told
            self.network.note(self.name, "posthumous failure", type(error).__name__)

    # ---- the clock of the host

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=asyncio.get_running_loop().time()) + self.ahead

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.awake()
