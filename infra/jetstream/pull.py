"""Reading a stream in order through an ephemeral pull consumer, without loss.

``Pull`` is one consumer: made in memory, acknowledging nothing, with two batches requested ahead. Every message
carries the consumer's own sequence; one that does not follow the last one means that something was lost on the way
(a slow client, a dead connection), and the consumer is given up. ``Follower`` makes the next one behind the last
message that arrived, after a gap, a reconnection, a restart of the server or silence in place of heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from nats.aio.subscription import Subscription

from events.errors import CairnError
from infra.jetstream.requests import Requests, header_value, status_of

logger = logging.getLogger("cairn.jetstream")

BATCH = 2000
EXPIRES_SECONDS = 30
HEARTBEAT_SECONDS = 1
SILENCE_SECONDS = 3.5
INACTIVE_SECONDS = 30
CHECK_SECONDS = 1.0
REOPEN_SECONDS = 0.2
NANOSECONDS = 1_000_000_000

# sequence in the stream, time in nanoseconds of the epoch, messages that are left behind it, headers, data
Receive = Callable[[int, int, int, bytes, bytes], None]


def consumer_tokens(ack_subject: bytes) -> tuple[int, int, int, int]:
    """Stream sequence, consumer sequence, time (ns) and messages left, from the reply subject of a delivery.

    ``$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<left>``, or, where domains are in
    use, ``$JS.ACK.<domain>.<account>.<stream>. … .<left>.<random>``.
    """
    tokens = ack_subject.split(b".")
    first = 5 if len(tokens) == 9 else 7
    return int(tokens[first]), int(tokens[first + 1]), int(tokens[first + 2]), int(tokens[first + 3])


class Pull:
    """One ephemeral consumer from ``after`` on. ``broken`` is called once, when nothing more can come of it."""

    def __init__(
        self,
        requests: Requests,
        stream: str,
        filters: Sequence[str],
        receive: Receive,
        broken: Callable[[str], None],
        *,
        refill: bool = True,
    ) -> None:
        self.left = 0
        self.heard_at = 0.0
        self._requests = requests
        self._stream = stream
        self._filters = list(filters)
        self._receive = receive
        self._broken = broken
        self._refill = refill
        self._unread = 0
        self._name = ""
        self._inbox = ""
        self._subscription: Subscription | None = None
        self._sequence = 0
        self._outstanding = 0
        self._open = False

    async def open(self, after: int) -> None:
        """Raises ``Transient`` or ``Refused``."""
        client = self._requests.client
        self._inbox = client.new_inbox()
        self._name = self._inbox.rpartition(".")[2]
        self._subscription = await client.receive(self._inbox, self._on_message)
        config: dict[str, Any] = {
            "name": self._name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "max_waiting": 8,
            "inactive_threshold": INACTIVE_SECONDS * NANOSECONDS,
        }
        if len(self._filters) == 1:
            config["filter_subject"] = self._filters[0]
        elif self._filters:
            config["filter_subjects"] = self._filters
        body = {"stream_name": self._stream, "config": config, "action": ""}
        answer = await self._requests.api(f"CONSUMER.CREATE.{self._stream}.{self._name}", body)
        self.left = answer.get("num_pending", 0)
        self.heard_at = asyncio.get_running_loop().time()
        self._open = True
        self.pull()
        self.pull()

    def pull(self) -> None:
        """Ask for one more batch."""
        self._outstanding += BATCH
        body = msgspec.json.encode(
            {
                "batch": BATCH,
                "expires": EXPIRES_SECONDS * NANOSECONDS,
                "idle_heartbeat": HEARTBEAT_SECONDS * NANOSECONDS,
            }
        )
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        self._requests.send(subject, body, reply=self._inbox.encode())

    def consumed(self, count: int) -> None:
        """Where ``refill`` is False: the reader has taken so many messages and has room for more."""
        self._unread -= count
        if self._open and self._outstanding + self._unread <= BATCH:
            self.pull()

    async def close(self) -> None:
        self._open = False
        if self._subscription is None:
            return
        await self._requests.client.stop_receiving(self._subscription)
        self._subscription = None
        if self._requests.client.ready.is_set():
            self._requests.send(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}", b"")

    def _on_message(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        if not self._open:
            return
        self.heard_at = asyncio.get_running_loop().time()
        status = status_of(headers) if headers else 0
        if status:
            self._on_status(status, headers)
            return
        sequence, consumer_sequence, time, left = consumer_tokens(reply)
        if consumer_sequence != self._sequence + 1:
            self._break(f"delivery {consumer_sequence} came after {self._sequence}")
            return
        self._sequence = consumer_sequence
        self._outstanding -= 1
        if not self._refill:
            self._unread += 1
        elif self._outstanding <= BATCH:
            self.pull()
        self.left = left
        self._receive(sequence, time, left, headers, data)

    def _on_status(self, status: int, headers: bytes) -> None:
        if status == 100:
            return
        if status != 408:
            self._break(headers[9:].partition(b"\r\n")[0].decode(errors="replace"))
            return
        self._outstanding -= int(header_value(headers, b"Nats-Pending-Messages") or BATCH)
        if self._outstanding <= BATCH:
            self.pull()

    def _break(self, reason: str) -> None:
        self._open = False
        self._broken(reason)


class Follower:
    """Calls ``receive`` with every message above ``after``, for ever, in order, each once."""

    def __init__(
        self, requests: Requests, stream: str, filters: Sequence[str], receive: Receive, *, after: int
    ) -> None:
        self._requests = requests
        self._stream = stream
        self._filters = filters
        self._deliver = receive
        self._last = after
        self._pull: Pull | None = None
        self._disturbed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises ``Transient`` or ``Refused`` where not even the first consumer can be made."""
        await self._reopen()
        self._requests.reconnected.add(self._on_reconnect)
        self._task = asyncio.create_task(self._watch())

    def disturb(self, reason: str) -> None:
        """Make the consumer anew."""
        logger.debug("reading %s starts again behind %d: %s", self._stream, self._last, reason)
        self._disturbed.set()

    async def close(self) -> None:
        self._requests.reconnected.discard(self._on_reconnect)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._pull is not None:
            await self._pull.close()

    def _on_reconnect(self) -> None:
        self.disturb("the connection is new")

    def _receive(self, sequence: int, time: int, left: int, headers: bytes, data: bytes) -> None:
        self._last = sequence
        self._deliver(sequence, time, left, headers, data)

    async def _reopen(self) -> None:
        self._disturbed.clear()
        if self._pull is not None:
            await self._pull.close()
        self._pull = Pull(self._requests, self._stream, self._filters, self._receive, self.disturb)
        await self._pull.open(self._last)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._disturbed.wait()
            except TimeoutError:
                if self._pull is not None and loop.time() - self._pull.heard_at > SILENCE_SECONDS:
                    self.disturb("no heartbeat")
            if not self._disturbed.is_set():
                continue
            try:
                await self._reopen()
            except (CairnError, OSError) as error:
                logger.warning("cannot follow %s yet: %s", self._stream, error)
                self._disturbed.set()
                await asyncio.sleep(REOPEN_SECONDS)
