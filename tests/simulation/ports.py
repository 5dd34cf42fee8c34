"""The ports of a service, for one process: each use of one passes through it (``Process.call``), and what comes from
outside arrives late, in disorder, twice or not at all, as ``Faults`` decides."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from events.content import digest_of
from events.envelope import CommandEnvelope, Envelope, Outcome, Recorded
from infra.ports import Delivered, OutputChunk
from tests.simulation.network import Process

T = TypeVar("T")


class Late:
    """Hands on in order, each a little later, to a process that lives and is not frozen."""

    def __init__(self, process: Process, deliver: Callable[[Any], None]) -> None:
        self._process = process
        self._deliver = deliver
        self._waiting: deque[Any] = deque()
        self._last = 0.0

    def __call__(self, item: Any) -> None:
        loop = asyncio.get_running_loop()
        self._waiting.append(item)
        self._last = max(self._last, loop.time() + self._process.network.faults.delay_seconds())
        loop.call_at(self._last, self._hand_on)

    def _hand_on(self) -> None:
        process, loop = self._process, asyncio.get_running_loop()
        if not process.alive or process.network.over:
            return
        if loop.time() < process.frozen_until:
            loop.call_at(process.frozen_until, self._hand_on)
            return
        self._deliver(self._waiting.popleft())


class ProcessLog:
    def __init__(self, process: Process, log: Any) -> None:
        self._process = process
        self._log = log
        self.tenant = log.tenant

    async def append(self, envelope: Envelope, *, expected: int, of_kind: bool = False) -> int:
        kinds = tuple(type(event).__name__ for event in envelope.events)
        what = ("append", envelope.entity_id, expected, *kinds)
        sequence = await self._process.call(
            what, lambda: self._log.append(envelope, expected=expected, of_kind=of_kind)
        )
        self._process.network.acknowledged.append((sequence, envelope.id))
        return sequence

    async def load(self, entity: str, id: str, *, after: int = 0) -> list[Recorded]:
        return await self._process.call(("load", entity, id), lambda: self._log.load(entity, id, after=after))

    async def last(self, entity: str, id: str) -> Recorded | None:
        return await self._process.call(("last", entity, id), lambda: self._log.last(entity, id))

    async def last_sequence(self) -> int:
        return await self._process.call(("last_sequence",), self._log.last_sequence, certain=True)

    async def created_at(self) -> datetime:
        return await self._process.call(("created_at",), self._log.created_at, certain=True)

    async def replay(
        self, *, after: int = 0, until: int | None = None, entities: Sequence[str] = ()
    ) -> AsyncIterator[list[Recorded]]:
        async for records in self._log.replay(after=after, until=until, entities=entities):
            yield await self._process.call(("replay",), lambda records=records: _answer(records), certain=True)

    async def follow(self, deliver: Callable[[Recorded], None], *, after: int, entities: Sequence[str] = ()) -> Any:
        async def effect() -> Any:
            following = await self._log.follow(Late(self._process, deliver), after=after, entities=entities)
            self._process.on_end(lambda: _run(following.close()))
            return following

        return await self._process.call(("follow", after), effect, certain=True)


class ProcessBus:
    def __init__(self, process: Process, bus: Any) -> None:
        self._process = process
        self._bus = bus

    async def send(self, service: str, target: str, envelope: CommandEnvelope) -> bool:
        what = ("send", type(envelope.command).__name__, envelope.id)
        return await self._process.call(what, lambda: self._bus.send(service, target, envelope))

    def cast(self, service: str, target: str, envelope: CommandEnvelope) -> None:
        """It leaves the process at once; on its way it may be delayed, lost, or come twice."""
        process = self._process
        faults = process.network.faults
        if not process.alive or process.network.over:
            return
        what = ("cast", type(envelope.command).__name__, envelope.id)
        if faults.strikes(faults.lost):
            process.network.note(process.name, "lost", *what)
            return
        for _ in range(2 if faults.strikes(faults.twice) else 1):
            self._later(lambda: self._cast(what, service, target, envelope))

    def reply(self, envelope: CommandEnvelope, outcome: Outcome) -> None:
        faults = self._process.network.faults
        if self._process.alive and not faults.strikes(faults.lost):
            self._later(lambda: self._bus.reply(envelope, outcome))

    def _later(self, effect: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        wait = max(0.0, self._process.frozen_until - loop.time())
        loop.call_later(wait + self._process.network.faults.delay_seconds(), effect)

    def _cast(self, what: tuple[Any, ...], service: str, target: str, envelope: CommandEnvelope) -> None:
        if not self._process.network.over:
            self._process.network.note(self._process.name, *what)
            self._bus.cast(service, target, envelope)


class ProcessSource:
    """Commands arrive late and in any order; a lease may lapse while its holder lives."""

    def __init__(self, process: Process, source: Any) -> None:
        self._process = process
        self._source = source

    async def subscribe(
        self,
        durable: str,
        stream: str,
        filters: Sequence[str],
        deliver: Callable[[Delivered], None],
        *,
        lease_seconds: float,
        capacity: Callable[[], int],
    ) -> Any:
        under_way = 0
        process = self._process

        def hand_on(delivered: Delivered) -> None:
            nonlocal under_way
            loop = asyncio.get_running_loop()
            if process.alive and loop.time() < process.frozen_until:
                loop.call_at(process.frozen_until, hand_on, delivered)
                return
            under_way -= 1
            if process.alive and not process.network.over:
                process.network.note(process.name, "take", delivered.subject, delivered.deliveries)
                deliver(ProcessDelivered(process, delivered, self._source))

        def take(delivered: Delivered) -> None:
            nonlocal under_way
            under_way += 1
            longest = lease_seconds * 1.5
            delay = process.network.faults.delay_seconds(longest=longest)
            asyncio.get_running_loop().call_later(delay, hand_on, delivered)

        async def effect() -> Any:
            taking = await self._source.subscribe(
                durable,
                stream,
                filters,
                take,
                lease_seconds=lease_seconds,
                capacity=lambda: capacity() - under_way,
            )
            process.on_end(lambda: self._source.leave(taking))
            return taking

        return await process.call(("subscribe", durable), effect, certain=True)

    async def give_back(self, token: str) -> None:
        await self._process.call(("give back", token), lambda: self._source.give_back(token), certain=True)


class ProcessDelivered:
    """Acknowledgements are not answered: one that is lost is as if it had never been sent."""

    def __init__(self, process: Process, delivered: Any, source: Any) -> None:
        self.data = delivered.data
        self.subject = delivered.subject
        self.deliveries = delivered.deliveries
        self.token = delivered.token
        self._process = process
        self._delivered = delivered
        self._source = source

    async def ack(self) -> None:
        await self._settle("ack", self._delivered.ack)

    async def nak(self, delay_seconds: float = 0.0) -> None:
        await self._settle("nak", lambda: self._delivered.nak(delay_seconds))

    async def extend(self) -> None:
        faults = self._process.network.faults
        if faults.strikes(faults.twice):  # As where its extensions did not get through: somebody else gets it too.
            self._process.network.note(self._process.name, "lapse", self.subject)
            await self._source.give_back(self.token)
            return
        await self._settle("extend", self._delivered.extend)

    async def terminate(self) -> None:
        await self._settle("terminate", self._delivered.terminate)

    async def _settle(self, what: str, effect: Callable[[], Awaitable[None]]) -> None:
        faults = self._process.network.faults

        async def perhaps() -> None:
            if faults.strikes(faults.lost):
                self._process.network.note(self._process.name, "lost", what, self.subject)
                return
            await effect()

        await self._process.call((what, self.subject), perhaps, certain=True)


class ProcessContent:
    def __init__(self, process: Process, content: Any) -> None:
        self._process = process
        self._content = content

    async def put(self, data: bytes) -> str:
        digest = digest_of(data)
        return await self._process.call(("put", digest[:8]), lambda: self._content.put(data))

    async def get(self, digest: str) -> bytes | None:
        return await self._process.call(("get", digest[:8]), lambda: self._content.get(digest))


class ProcessOutput:
    def __init__(self, process: Process, output: Any) -> None:
        self._process = process
        self._output = output

    async def write(self, run_id: str, call_id: str, offset: int, data: bytes) -> None:
        what = ("print", call_id, offset)
        await self._process.call(what, lambda: self._output.write(run_id, call_id, offset, data))

    async def read(self, run_id: str, *, after: int = 0) -> list[OutputChunk]:
        chunks: list[OutputChunk] = await self._output.read(run_id, after=after)
        return chunks


class ProcessDeadLetters:
    def __init__(self, process: Process, letters: Any) -> None:
        self._process = process
        self._letters = letters

    async def put(self, service: str, subject: str, data: bytes, **why: Any) -> None:
        what = ("bury", subject, why["reason"])
        await self._process.call(what, lambda: self._letters.put(service, subject, data, **why))


class ProcessHosts:
    def __init__(self, process: Process, hosts: Any) -> None:
        self._process = process
        self._hosts = hosts

    def announce(self, host: str, note: bytes = b"") -> None:
        faults = self._process.network.faults
        if self._process.alive and not faults.strikes(faults.lost):
            self._hosts.announce(host, note)

    async def silent_seconds(self, host: str) -> float:
        return await self._process.call(("silent", host), lambda: self._hosts.silent_seconds(host))

    async def all(self) -> dict[str, Any]:
        return await self._process.call(("hosts",), self._hosts.all)


class ProcessRunLeases:
    """Who holds a run, as it is shown: nothing depends on it."""

    def __init__(self, process: Process, leases: Any) -> None:
        self._process = process
        self._leases = leases

    def hold(self, lease: Any, seconds: float) -> None:
        if self._process.alive:
            self._leases.hold(lease, seconds)

    def release(self, run_id: str) -> None:
        if self._process.alive:
            self._leases.release(run_id)

    async def held(self) -> dict[str, Any]:
        return await self._process.call(("held",), self._leases.held)


class Ports:
    """The face of ``infra.jetstream.connection.JetStream``, for one process."""

    connected = True

    def __init__(self, process: Process) -> None:
        memory = process.network.memory
        self.log: Any = ProcessLog(process, memory.log)
        self.commands = ProcessBus(process, memory.commands)
        self.source = ProcessSource(process, memory.source)
        self.content = ProcessContent(process, memory.content)
        self.output = ProcessOutput(process, memory.output)
        self.dead_letters = ProcessDeadLetters(process, memory.dead_letters)
        self.hosts = ProcessHosts(process, memory.hosts)
        self.leases = ProcessRunLeases(process, memory.leases)
        self.reconnected: list[Callable[[], None]] = []

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self.reconnected.append(callback)


class HostLeases:
    """What a host's disk tells of the commands that a dead process had in hand."""

    def __init__(self, kept: dict[str, datetime], process: Process, lease_seconds: float) -> None:
        self._kept = kept
        self._process = process
        self._lease_seconds = lease_seconds

    def open(self) -> list[str]:
        now = self._process.now()
        left = [token for token, at in self._kept.items() if (now - at).total_seconds() < self._lease_seconds]
        self._kept.clear()
        return left

    def keep(self, token: str) -> None:
        self._write(token)

    def extend(self, token: str) -> None:
        if token in self._kept:
            self._write(token)

    def drop(self, token: str) -> None:
        if self._process.alive:
            self._kept.pop(token, None)

    def close(self) -> None:
        self._kept.clear()

    def _write(self, token: str) -> None:
        if self._process.alive:
            self._kept[token] = self._process.now()


async def _answer(value: T) -> T:
    return value


def _run(work: Any) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration:
        return
