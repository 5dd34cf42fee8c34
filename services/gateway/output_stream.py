"""What a run prints, as server-sent events: in order, without loss or repetition over reconnects.

A frame is a chunk of one call: its id the sequence in OUTPUT, its data ``{"call_id", "offset", "text"}``, ``offset``
being the place of the text in that call's output in bytes. What a restarted writer sent twice is left out by its
offset; a character that a chunk's end cuts comes whole with the next chunk. Output ages: ``event: truncated`` says what
is not there any more. ``event: end`` closes the stream when the run has ended and all of its output was sent, or, for
who does not follow, all that there was; its ``status`` is how the run ended, empty while it goes on.

After a reconnect the last chunks before ``Last-Event-ID`` are read again to know where each call stood; a call that
printed nothing within them starts anew, so that a repetition or a cut character from before them is not recognised.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from infra.ports import EventLog, OutputChunk, OutputStore
from services.gateway.feeds import LONGEST_QUEUE_BYTES, Entry, Feed, Feeds, Hub
from services.gateway.progress import Progress, concerning, task_of
from services.gateway.sse import HEARTBEAT, HEARTBEAT_SECONDS, LAGGING, RETRY, EventStream, named
from services.gateway.views import not_found

# A page of stored chunks smaller than this ends the catching up; what is left comes by following.
SMALL_PAGE = 100
# So many sequences before the client's last event are looked at again.
REREAD_SEQUENCES = 64

_decoder_of = codecs.getincrementaldecoder("utf-8")
_encode = msgspec.json.Encoder().encode


class Piece(msgspec.Struct, frozen=True):
    call_id: str
    offset: int
    text: str


class CallText:
    """The output of one call as text, from the chunks as they come."""

    def __init__(self, offset: int) -> None:
        self.reached = offset
        self._decoder = _decoder_of("replace")

    def read(self, data: bytes, offset: int) -> tuple[int, str]:
        """The new text that a chunk brings, and its offset."""
        if offset > self.reached:
            self.reached = offset
            self._decoder.reset()
        fresh = data[self.reached - offset :]
        begin = self.reached - len(self._decoder.getstate()[0])
        self.reached += len(fresh)
        return begin, self._decoder.decode(fresh)


class Reader:
    """Chunks to frames, for one client. ``whole`` where the client began with the first chunk there ever was."""

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._calls: dict[str, CallText] = {}
        self.last = 0

    def skim(self, chunk: OutputChunk) -> None:
        """Take note of a chunk that the client has."""
        self.frame(chunk)

    def frame(self, chunk: OutputChunk) -> bytes:
        """The frames of a chunk, empty where it brings nothing new."""
        if chunk.sequence <= self.last:
            return b""
        self.last = chunk.sequence
        call = self._calls.get(chunk.call_id)
        if call is None:
            call = self._calls[chunk.call_id] = CallText(0 if self._whole else chunk.offset)
        gap = b""
        if chunk.offset > call.reached:
            gap = truncated(call_id=chunk.call_id, offset=call.reached, until=chunk.offset)
        offset, text = call.read(chunk.data, chunk.offset)
        if not text:
            return gap
        return gap + b"id: %d\ndata: %b\n\n" % (chunk.sequence, _encode(Piece(chunk.call_id, offset, text)))

    def missing(self, progress: Progress) -> bytes:
        """What to say at the end of calls that printed something of which nothing is left."""
        if not self._whole:
            return b""
        gone = ((id, size) for id, size in progress.printed_bytes.items() if size and id not in self._calls)
        return b"".join(truncated(call_id=id, offset=0, until=size) for id, size in gone)


def truncated(**where: Any) -> bytes:
    return named("truncated", {"reason": "This output is not kept any more.", **where})


class OutputStreams:
    """Makes the streams of what runs and gates' checks print."""

    def __init__(
        self,
        log: EventLog,
        output: OutputStore,
        hub: Hub,
        feeds: Feeds,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._log = log
        self._output = output
        self._hub = hub
        self._feeds = feeds
        self._heartbeat_seconds = heartbeat_seconds

    async def open(self, id: str, *, after: int, follow: bool) -> EventStream:
        """The output of a run or check above ``after``, until it is over, or without ``follow`` only what there is.
        Raises ``Transient``, and ``Problem`` for an unknown run."""
        self._feeds.check()
        task = await task_of(self._log, id)
        if task is None:
            raise not_found(id, "run")
        reader = Reader(whole=after == 0)
        head = RETRY + b"id: %d\n\n" % after if after else RETRY + b"\n"
        if after:
            head += await self._skim(id, reader, after)
        return EventStream(self._frames(id, task.id, reader, head, follow=follow))

    async def _skim(self, id: str, reader: Reader, after: int) -> bytes:
        """Bring the reader to where the client is; a frame that says so where that is not there any more."""
        seen = await self._output.read(id, after=max(0, after - REREAD_SEQUENCES))
        for chunk in seen:
            if chunk.sequence <= after:
                reader.skim(chunk)
        known = reader.last == after
        reader.last = after
        return b"" if known else truncated(requested=after)

    async def _frames(
        self, id: str, task_id: str, reader: Reader, head: bytes, *, follow: bool
    ) -> AsyncGenerator[bytes, None]:
        yield head
        async for part in self._stored(id, reader, fewest=SMALL_PAGE):
            yield part
        selection = concerning(id, task_id)
        progress = Progress(id)
        begin = self._hub.last
        with (
            self._feeds.open(LONGEST_QUEUE_BYTES, _weight) as feed,
            self._hub.listen(feed.offer, selection.matches, after=begin),
        ):
            async for batch in selection.history(self._log, after=0, until=begin):
                for record in batch:
                    progress.apply(record)
            if follow:
                async with self._following(id, feed.offer, reader.last):
                    async for part in self._live(feed, progress, reader):
                        yield part
        if progress.over or not follow:
            async for part in self._stored(id, reader):
                yield part
            yield reader.missing(progress) + named("end", {"status": progress.status})

    async def _stored(self, id: str, reader: Reader, *, fewest: int = 1) -> AsyncGenerator[bytes, None]:
        """What is there, page by page, as fast as the client takes it, until a page has less than ``fewest``."""
        count = fewest
        while count >= fewest:
            chunks = await self._output.read(id, after=reader.last)
            count = len(chunks)
            frames = b"".join(map(reader.frame, chunks))
            if frames:
                yield frames

    async def _live(self, feed: Feed[Any], progress: Progress, reader: Reader) -> AsyncGenerator[bytes, None]:
        """What comes, until the run is over, the client too slow, or the gateway stopping."""
        while not (progress.over or feed.closed):
            items = await feed.take(self._heartbeat_seconds)
            lagging = feed.lagging
            frames = b"".join(self._frame(item, progress, reader) for item in items)
            if frames or not items:
                yield frames or HEARTBEAT
            if lagging and not progress.over:
                yield LAGGING
                return

    @staticmethod
    def _frame(item: Entry | OutputChunk, progress: Progress, reader: Reader) -> bytes:
        if isinstance(item, OutputChunk):
            return reader.frame(item)
        progress.apply(item.record)
        return b""

    @asynccontextmanager
    async def _following(
        self, id: str, deliver: Callable[[OutputChunk], None], after: int
    ) -> AsyncGenerator[None, None]:
        following = await self._output.follow(id, deliver, after=after)
        try:
            yield
        finally:
            # Whoever leaves cancels this generator; the follower must be closed all the same.
            await asyncio.shield(following.close())


def _weight(item: Entry | OutputChunk) -> int:
    return 256 if isinstance(item, Entry) else 256 + len(item.data)
