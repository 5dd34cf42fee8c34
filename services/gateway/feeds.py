"""What waits for clients of live streams: a bounded queue each, and the one view of the log that feeds them all.

The gateway follows the log once. The hub keeps the last decisions, so that a client that comes back finds what it
missed without a read; one that is further behind reads the log up to the hub's oldest and goes on from there. A client
too slow for its queue is cut off, told so, and can go on from its last event id.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from prometheus_client import Gauge

from events.envelope import Recorded
from infra.metrics import REGISTRY
from infra.ports import EventLog, Following
from services.gateway.answers import encode, unavailable
from services.gateway.views import view

KEPT_DECISIONS = 2_000
LONGEST_QUEUE_BYTES = 32 * 1024 * 1024
MOST_STREAMS = 1_000

STREAMS = Gauge("cairn_gateway_streams", "Live streams that are open.", registry=REGISTRY)

T = TypeVar("T")


class Entry:
    """A decision with its frame, which is made once for all clients and only where there is one."""

    __slots__ = ("_frame", "record")

    def __init__(self, record: Recorded) -> None:
        self.record = record
        self._frame: bytes | None = None

    @property
    def frame(self) -> bytes:
        if self._frame is None:
            self._frame = b"id: %d\ndata: %b\n\n" % (self.record.sequence, encode(view(self.record)))
        return self._frame


class Feed(Generic[T]):
    """The queue of one client. ``lagging`` is set, and no more taken in, once more than ``limit`` waits."""

    def __init__(self, limit: int, weight: Callable[[T], int]) -> None:
        self._limit = limit
        self._weight = weight
        self._items: list[T] = []
        self._waiting = 0
        self._wake = asyncio.Event()
        self.lagging = False
        self.closed = False

    def offer(self, item: T) -> None:
        if self.lagging or self.closed:
            return
        self._waiting += self._weight(item)
        self.lagging = self._waiting > self._limit
        if not self.lagging:
            self._items.append(item)
        self._wake.set()

    def close(self) -> None:
        self.closed = True
        self._wake.set()

    async def take(self, wait_seconds: float) -> list[T]:
        """All that waits, as soon as there is something; nothing after ``wait_seconds``, or at the end."""
        if not (self._items or self.lagging or self.closed):
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._wake.wait()
            except TimeoutError:
                return []
        self._wake.clear()
        items, self._items, self._waiting = self._items, [], 0
        return items


class Feeds:
    """Every open stream of this process, so that there are not too many and all end with it."""

    def __init__(self, most: int = MOST_STREAMS) -> None:
        self._most = most
        self._open: set[Feed[Any]] = set()
        self._closed = False

    @contextmanager
    def open(self, limit: int, weight: Callable[[Any], int]) -> Iterator[Feed[Any]]:
        self.check()
        feed: Feed[Any] = Feed(limit, weight)
        self._open.add(feed)
        STREAMS.inc()
        try:
            yield feed
        finally:
            self._open.discard(feed)
            STREAMS.dec()

    def check(self) -> None:
        """Raises ``Problem`` where no further stream can be opened."""
        if self._closed:
            detail = "The gateway is stopping; connect again."
            raise unavailable(detail, "stopping")
        if len(self._open) >= self._most:
            detail = f"There are {self._most} open streams already; close some, or try again later."
            raise unavailable(detail, "too-many-streams", retry_after_seconds=10)

    def close(self) -> None:
        self._closed = True
        for feed in self._open:
            feed.close()


class Hub:
    """The last decisions of the log, and whoever listens for the next ones."""

    def __init__(self, log: EventLog, kept: int = KEPT_DECISIONS) -> None:
        self._log = log
        self._kept: deque[Entry] = deque()
        self._most_kept = kept
        self._listeners: dict[Callable[[Entry], None], Callable[[Recorded], bool]] = {}
        self._following: Following | None = None
        # Every decision with floor < sequence ≤ last is kept.
        self.floor = 0
        self.last = 0

    async def start(self) -> None:
        self.floor = self.last = await self._log.last_sequence()
        self._following = await self._log.follow(self._deliver, after=self.last)

    async def stop(self) -> None:
        if self._following is not None:
            await self._following.close()

    def _deliver(self, record: Recorded) -> None:
        entry = Entry(record)
        self._kept.append(entry)
        self.last = record.sequence
        if len(self._kept) > self._most_kept:
            self.floor = self._kept.popleft().record.sequence
        for listener, matches in self._listeners.items():
            if matches(record):
                listener(entry)

    @contextmanager
    def listen(
        self, listener: Callable[[Entry], None], matches: Callable[[Recorded], bool], *, after: int
    ) -> Iterator[None]:
        """Call ``listener`` with what matches above ``after``, which must not lie below ``floor``."""
        assert after >= self.floor
        for entry in self._kept:
            if entry.record.sequence > after and matches(entry.record):
                listener(entry)
        self._listeners[listener] = lambda record: record.sequence > after and matches(record)
        try:
            yield
        finally:
            del self._listeners[listener]
