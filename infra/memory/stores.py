"""Content, output and dead letters, each as a dictionary or a list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from events.content import digest_of
from events.errors import CommandRejected
from infra.memory.queues import MemoryCommandSource
from infra.ports import Clock, DeadLetter, OutputChunk

PAGE = 1000


class MemoryContentStore:
    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}

    async def put(self, data: bytes) -> str:
        digest = digest_of(data)
        self._contents[digest] = data
        return digest

    async def get(self, digest: str) -> bytes | None:
        return self._contents.get(digest)


class MemoryOutputStore:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._count = 0
        self._chunks: dict[str, list[OutputChunk]] = {}
        self._followings: dict[str, list[MemoryOutputFollowing]] = {}

    async def write(self, run_id: str, call_id: str, offset: int, data: bytes) -> None:
        self._count += 1
        chunk = OutputChunk(
            sequence=self._count, time=self._clock.now(), call_id=call_id, offset=offset, data=bytes(data)
        )
        chunks = self._chunks.setdefault(run_id, [])
        if any((item.call_id, item.offset, len(item.data)) == (call_id, offset, len(data)) for item in chunks):
            return
        chunks.append(chunk)
        for following in self._followings.get(run_id, ()):
            following.wake()

    async def read(self, run_id: str, *, after: int = 0) -> list[OutputChunk]:
        return [chunk for chunk in self.chunks(run_id) if chunk.sequence > after][:PAGE]

    async def follow(
        self, run_id: str, deliver: Callable[[OutputChunk], None], *, after: int = 0
    ) -> MemoryOutputFollowing:
        following = MemoryOutputFollowing(self, run_id, deliver, after)
        self._followings.setdefault(run_id, []).append(following)
        following.wake()
        return following

    def chunks(self, run_id: str) -> list[OutputChunk]:
        return self._chunks.get(run_id, [])

    def leave(self, run_id: str, following: MemoryOutputFollowing) -> None:
        if following in self._followings.get(run_id, ()):
            self._followings[run_id].remove(following)


class MemoryOutputFollowing:
    def __init__(
        self, store: MemoryOutputStore, run_id: str, deliver: Callable[[OutputChunk], None], after: int
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._deliver = deliver
        self._last = after
        self._scheduled = False
        self._closed = False

    def wake(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._catch_up)

    async def close(self) -> None:
        self._closed = True
        self._store.leave(self._run_id, self)

    def _catch_up(self) -> None:
        self._scheduled = False
        for chunk in [item for item in self._store.chunks(self._run_id) if item.sequence > self._last]:
            self._last = chunk.sequence
            if not self._closed:
                self._deliver(chunk)


class MemoryDeadLetters:
    def __init__(self, source: MemoryCommandSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._count = 0
        self._letters: dict[int, DeadLetter] = {}

    async def put(self, service: str, subject: str, data: bytes, *, reason: str, detail: str, deliveries: int) -> None:
        self._count += 1
        self._letters[self._count] = DeadLetter(
            sequence=self._count,
            time=self._clock.now(),
            service=service,
            subject=subject,
            reason=reason,
            detail=detail,
            deliveries=deliveries,
            data=data,
        )

    async def list(self, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        return [letter for letter in self._letters.values() if letter.sequence > after][:limit]

    async def get(self, sequence: int) -> DeadLetter | None:
        return self._letters.get(sequence)

    async def resend(self, sequence: int) -> DeadLetter | None:
        """Raises ``CommandRejected`` where the queue does not take it now; then it stays here."""
        letter = self._letters.get(sequence)
        if letter is None:
            return None
        if not self._source.publish(letter.subject, letter.data):
            message = f"{letter.subject} does not take the command now: an open job is there already."
            raise CommandRejected(message, slug="not-taken")
        return self._letters.pop(sequence)
