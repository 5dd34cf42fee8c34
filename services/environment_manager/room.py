"""What the process of an environment-manager holds of each environment, for as long as something is done in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from events.kernel import Event
from infra.redaction import Redactor
from services.environment_manager.operations import Asked, Done, Operation


@dataclass
class Room:
    """What this process holds of one environment: its order of changes, and the calls under way with their
    processes and operations. ``facts`` are to be in the log with the ends of their calls. ``resolved`` are the
    uncertain calls that may be executed again. ``inside`` counts those who have something to do here, but for calls."""

    id: str
    inside: int = 0
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    appending: asyncio.Lock = field(default_factory=asyncio.Lock)
    moving: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    processes: dict[str, str] = field(default_factory=dict)
    operations: dict[str, asyncio.Future[Done]] = field(default_factory=dict)
    interrupted: dict[str, str] = field(default_factory=dict)
    facts: dict[str, tuple[Event, ...]] = field(default_factory=dict)
    resolved: set[str] = field(default_factory=set)
    preparing: int = 0
    redactors: dict[tuple[str, ...], Redactor] = field(default_factory=dict)

    async def operate(self, asked: Asked, operation: Operation) -> Done | None:
        """What the operation comes to, within the limit of its run; None where the call was interrupted."""
        command = asked.command
        operating = asyncio.ensure_future(operation(asked))
        self.operations[command.call_id] = operating
        if command.call_id in self.interrupted:
            operating.cancel()
        try:
            async with asyncio.timeout(command.time_limit_seconds or None):
                return await operating
        except TimeoutError:
            detail = f"it was ended after {command.time_limit_seconds:g} seconds, the limit of its run."
            return Done(cause="timed-out", detail=detail)
        except asyncio.CancelledError:
            if command.call_id not in self.interrupted:
                raise
            return None
        finally:
            self.operations.pop(command.call_id, None)


class Rooms:
    """The rooms of the environments in which something is done at the moment, by their ids."""

    def __init__(self) -> None:
        self._rooms: dict[str, Room] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    def find(self, id: str) -> Room | None:
        """None where nothing is done in the environment."""
        return self._rooms.get(id)

    def calls(self) -> list[asyncio.Task[None]]:
        """All that are under way."""
        return [task for room in self._rooms.values() for task in room.calls.values()]

    def busy(self, id: str) -> bool:
        """Whether something is under way in the environment."""
        room = self._rooms.get(id)
        return room is not None and (bool(room.calls) or room.preparing > 0)

    def works_on(self, id: str, call_id: str) -> bool:
        room = self._rooms.get(id)
        return room is not None and call_id in room.calls

    def is_prepared(self, id: str) -> bool:
        """Whether the environment's workspace is being made at this moment."""
        room = self._rooms.get(id)
        return room is not None and room.preparing > 0

    @contextlib.contextmanager
    def enter(self, id: str) -> Iterator[Room]:
        """The room stays the same one for everybody until the last has left it."""
        room = self._rooms.setdefault(id, Room(id))
        room.inside += 1
        try:
            yield room
        finally:
            room.inside -= 1
            self._close(room)

    @contextlib.asynccontextmanager
    async def changing(self, id: str) -> AsyncIterator[None]:
        """Nobody else changes the workspace meanwhile."""
        with self.enter(id) as room:
            async with room.changing:
                yield

    @contextlib.contextmanager
    def preparing(self, id: str) -> Iterator[Room]:
        """Meanwhile the environment's workspace is being made."""
        with self.enter(id) as room:
            room.preparing += 1
            try:
                yield room
            finally:
                room.preparing -= 1

    def begin(self, room: Room, call_id: str, task: asyncio.Task[None]) -> None:
        """A call is under way in the room until its task is done."""
        room.calls[call_id] = task
        task.add_done_callback(lambda _: self._leave(room, call_id))

    def _leave(self, room: Room, call_id: str) -> None:
        room.calls.pop(call_id, None)
        room.facts.pop(call_id, None)
        room.interrupted.pop(call_id, None)
        self._close(room)

    def _close(self, room: Room) -> None:
        if not room.inside and not room.calls:
            self._rooms.pop(room.id, None)
