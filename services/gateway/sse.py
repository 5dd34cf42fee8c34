"""Server-sent events: the stream of a selection of the log, live and without loss over reconnects.

A frame's id is the stream sequence; ``Last-Event-ID`` or ``?after=`` says where to go on. Many events go in one
write. Comments every ten seconds keep the connection alive. Before it ends a stream says why: ``event: lagging`` where
the client was too slow (it goes on from its last id); ``event: truncated`` tells that what was asked for is not there
any more. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from events.envelope import Recorded
from events.errors import Transient
from infra.ports import EventLog
from services.gateway.answers import Problem, encode
from services.gateway.feeds import LONGEST_QUEUE_BYTES, Entry, Feeds, Hub
from services.gateway.schemas import LARGEST_SEQUENCE
from services.gateway.selection import Selection

HEARTBEAT_SECONDS = 10.0
HEARTBEAT = b": heartbeat\n\n"
RETRY = b"retry: 1000\n"
# So many events go in one write at most.
FRAMES_PER_WRITE = 500


class EventStream(StreamingResponse):
    """A response of frames; the generator is closed, and so leaves its feed, however the connection ends."""

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        # Proxies that buffer (nginx) would hold events back.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        self._frames = _until_away(frames)
        super().__init__(self._frames, headers=headers, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._frames.aclose()


async def _until_away(frames: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """``frames``, ended in an orderly way where NATS goes away in the middle."""
    async with aclosing(frames):
        try:
            async for part in frames:
                yield part
        except Transient as error:
            yield named("unavailable", {"reason": f"{error} Connect again to go on from the last event."})


def named(name: str, data: dict[str, Any], id: int | None = None) -> bytes:
    """A frame that is no event of the log."""
    head = b"id: %d\n" % id if id is not None else b""
    return head + b"event: %b\ndata: %b\n\n" % (name.encode(), encode(data))


LAGGING = named("lagging", {"reason": "Too slow: connect again to go on from the last event."})


def requested_after(request: Request, after: int | None) -> int | None:
    """Where the client wants to go on: after what it saw last, else as it asked. Raises ``Problem``."""
    last = request.headers.get("last-event-id", "").strip()
    if not last:
        return after
    if not (last.isascii() and last.isdigit() and int(last[:20]) <= LARGEST_SEQUENCE):
        raise Problem(400, "invalid-last-event-id", "Last-Event-ID is the id of an event of this stream: a number.")
    return int(last)


class EventStreams:
    """Makes the streams of selections of the log."""

    def __init__(
        self,
        log: EventLog,
        hub: Hub,
        feeds: Feeds,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        queue_bytes: int = LONGEST_QUEUE_BYTES,
    ) -> None:
        self._log = log
        self._hub = hub
        self._feeds = feeds
        self._heartbeat_seconds = heartbeat_seconds
        self._queue_bytes = queue_bytes

    async def open(self, selection: Selection, *, after: int | None) -> EventStream:
        """Everything selected above ``after``, from now on where it is None. Raises ``Transient``, ``Problem``."""
        self._feeds.check()
        last = await self._log.last_sequence()
        begin = last if after is None else min(after, last)
        # A first id, so that a client that saw no event yet loses nothing over a reconnect either.
        head = RETRY + b"id: %d\n\n" % begin
        if after is not None and after > last:
            reason = "The log is another one: it ends before the event that was asked for. Load everything again."
            head += named("truncated", {"reason": reason, "requested": after, "continued_after": begin})
        return EventStream(self._frames(selection, begin, head))

    async def _frames(self, selection: Selection, position: int, head: bytes) -> AsyncGenerator[bytes, None]:
        yield head
        hub = self._hub
        while position < hub.floor:
            until = hub.last
            async for batch in selection.history(self._log, after=position, until=until):
                for part in frames(batch):
                    yield part
            position = until
        with (
            self._feeds.open(self._queue_bytes, lambda entry: len(entry.frame)) as feed,
            hub.listen(feed.offer, selection.matches, after=position),
        ):
            while not feed.closed:
                entries = await feed.take(self._heartbeat_seconds)
                lagging = feed.lagging
                for part in _joined(entries):
                    yield part
                if lagging:
                    yield LAGGING
                    return
                if not entries:
                    yield HEARTBEAT


def frames(records: list[Recorded]) -> Iterable[bytes]:
    return _joined([Entry(record) for record in records])


def _joined(entries: list[Any]) -> Iterable[bytes]:
    for start in range(0, len(entries), FRAMES_PER_WRITE):
        yield b"".join(entry.frame for entry in entries[start : start + FRAMES_PER_WRITE])
