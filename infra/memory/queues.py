"""The work queues: commands wait in order, are held under a lease, and come again when it lapses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any

from events import subjects
from infra.ports import Clock, Delivered

DUPLICATE_WINDOW = timedelta(seconds=120)

STREAMS = {
    subjects.COMMANDS: subjects.COMMAND_SUBJECTS,
    subjects.RUNS: subjects.RUN_SUBJECTS,
    subjects.CALLS: subjects.CALL_SUBJECTS,
}


def matches(pattern: str, subject: str) -> bool:
    """Whether a NATS pattern (``*`` one token, ``>`` the rest) covers the subject."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for number, want in enumerate(wanted):
        if want == ">":
            return len(tokens) > number
        if number >= len(tokens) or want not in {"*", tokens[number]}:
            return False
    return len(wanted) == len(tokens)


class _Command:
    def __init__(self, sequence: int, stream: str, subject: str, data: bytes) -> None:
        self.sequence = sequence
        self.stream = stream
        self.subject = subject
        self.data = data
        self.deliveries = 0
        self.held = False
        self.until: datetime | None = None  # The lease's end while it is held, else when it may be handed out.


class MemoryDelivered:
    def __init__(self, source: MemoryCommandSource, command: _Command, lease_seconds: float) -> None:
        self.data = command.data
        self.subject = command.subject
        self.deliveries = command.deliveries
        self.token = f"{command.sequence}.{command.deliveries}"
        self._source = source
        self._command = command
        self._lease_seconds = lease_seconds

    async def ack(self) -> None:
        self._source.remove(self._command)

    async def nak(self, delay_seconds: float = 0.0) -> None:
        self._source.release(self._command, delay_seconds)

    async def extend(self) -> None:
        self._source.extend(self._command, self._lease_seconds)

    async def terminate(self) -> None:
        self._source.remove(self._command)


class MemoryCommandSource:
    """Acknowledgements do not fence here either: a late one of an earlier holder removes the command."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._commands: dict[int, _Command] = {}
        self._count = 0
        self._seen: dict[tuple[str, str], datetime] = {}
        self._takings: list[MemoryTaking] = []
        self._timers: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def publish(self, subject: str, data: bytes, message_id: str = "") -> bool:
        """False where the stream holds one command per subject and has it already."""
        stream = next(name for name, patterns in STREAMS.items() if any(matches(item, subject) for item in patterns))
        now = self._clock.now()
        if message_id:
            seen = self._seen.get((subject, message_id))
            if seen is not None and now - seen < DUPLICATE_WINDOW:
                return True
        if stream == subjects.RUNS and any(item.subject == subject for item in self._commands.values()):
            return False
        if message_id:
            self._seen[subject, message_id] = now
        self._count += 1
        self._commands[self._count] = _Command(self._count, stream, subject, data)
        self.hand_out_soon()
        return True

    async def subscribe(
        self,
        durable: str,
        stream: str,
        filters: Sequence[str],
        deliver: Callable[[Delivered], None],
        *,
        lease_seconds: float,
        capacity: Callable[[], int],
    ) -> MemoryTaking:
        taking = MemoryTaking(self, stream, filters, deliver, lease_seconds, capacity)
        self._takings.append(taking)
        self.hand_out_soon()
        return taking

    async def give_back(self, token: str) -> None:
        sequence, _, delivery = token.partition(".")
        command = self._commands.get(int(sequence))
        if command is not None and command.held and command.deliveries == int(delivery):
            self.release(command, 0.0)

    def remove(self, command: _Command) -> None:
        self._commands.pop(command.sequence, None)
        self.hand_out_soon()

    def release(self, command: _Command, delay_seconds: float) -> None:
        command.held = False
        command.until = self._clock.now() + timedelta(seconds=delay_seconds) if delay_seconds > 0 else None
        if command.until is not None:
            self._start(self._wake_at(command, command.until))
        self.hand_out_soon()

    def extend(self, command: _Command, lease_seconds: float) -> None:
        if command.held:
            command.until = self._clock.now() + timedelta(seconds=lease_seconds)

    def leave(self, taking: MemoryTaking) -> None:
        if taking in self._takings:
            self._takings.remove(taking)

    async def close(self) -> None:
        for timer in tuple(self._timers):
            timer.cancel()

    def hand_out_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._hand_out)

    def _hand_out(self) -> None:
        self._scheduled = False
        now = self._clock.now()
        for command in list(self._commands.values()):
            if command.held or (command.until is not None and command.until > now):
                continue
            taking = next((item for item in self._takings if item.takes(command.stream, command.subject)), None)
            if taking is None:
                continue
            # The next one goes to another process, where there is one.
            self._takings.remove(taking)
            self._takings.append(taking)
            command.held = True
            command.deliveries += 1
            command.until = now + timedelta(seconds=taking.lease_seconds)
            self._start(self._lapse(command, command.deliveries))
            taking.deliver(MemoryDelivered(self, command, taking.lease_seconds))

    async def _lapse(self, command: _Command, delivery: int) -> None:
        """Wait until the lease of this delivery is over, then let the command go to the next one."""
        while command.held and command.deliveries == delivery and command.until is not None:
            left = (command.until - self._clock.now()).total_seconds()
            if left <= 0:
                command.held = False
                command.until = None
                self.hand_out_soon()
                return
            await self._clock.sleep(left)

    async def _wake_at(self, command: _Command, until: datetime) -> None:
        while not command.held and command.until == until and (left := self._left(until)) > 0:
            await self._clock.sleep(left)
        self.hand_out_soon()

    def _left(self, until: datetime) -> float:
        return (until - self._clock.now()).total_seconds()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._timers.add(task)
        task.add_done_callback(self._timers.discard)


class MemoryTaking:
    """One process's share of a queue."""

    def __init__(
        self,
        source: MemoryCommandSource,
        stream: str,
        filters: Sequence[str],
        deliver: Callable[[Delivered], None],
        lease_seconds: float,
        capacity: Callable[[], int],
    ) -> None:
        self.deliver = deliver
        self.lease_seconds = lease_seconds
        self._source = source
        self._stream = stream
        self._filters = filters
        self._capacity = capacity

    def takes(self, stream: str, subject: str) -> bool:
        return stream == self._stream and any(matches(item, subject) for item in self._filters) and self._capacity() > 0

    async def close(self) -> None:
        self._source.leave(self)
