"""Commands in: durable pull consumers, with requests kept waiting so that a command is handed over as it arrives.

Requests live ``EXPIRES_SECONDS``, with heartbeats, and are renewed; one that was lost with a connection or a leader is
noticed by the missing heartbeat. Acknowledgements are plain publishes: they do not fence, and a lost one means that
the command is handed out again. A process that stood still for longer than a lease drops what waits for it: another
may have it by now.
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
from infra.ports import Delivered

logger = logging.getLogger("cairn.jetstream")

NANOSECONDS = 1_000_000_000
EXPIRES_SECONDS = 5
HEARTBEAT_SECONDS = 1
SILENCE_SECONDS = 3.5
CHECK_SECONDS = 1.0
REOPEN_SECONDS = 0.2
UNSETTLED_LIMIT = 20_000

ACK, NAK, IN_PROGRESS, TERMINATE = b"+ACK", b"-NAK", b"+WPI", b"+TERM"


class JetStreamDelivered:
    def __init__(self, taking: Taking, subject: bytes, token: bytes, data: bytes) -> None:
        tokens = token.split(b".")
        self.data = data
        self.subject = subject.decode(errors="replace")
        self.deliveries = int(tokens[4 if len(tokens) == 9 else 6])
        self.token = token.decode()
        self._taking = taking

    async def ack(self) -> None:
        self._taking.settle(self.token, ACK, urgent=False)

    async def nak(self, delay_seconds: float = 0.0) -> None:
        delay = int(delay_seconds * NANOSECONDS)
        self._taking.settle(self.token, NAK + b' {"delay": %d}' % delay if delay > 0 else NAK)

    async def extend(self) -> None:
        self._taking.send(self.token, IN_PROGRESS)

    async def terminate(self) -> None:
        self._taking.settle(self.token, TERMINATE)


class JetStreamCommandSource:
    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def subscribe(
        self,
        durable: str,
        stream: str,
        filters: Sequence[str],
        deliver: Callable[[Delivered], None],
        *,
        lease_seconds: float,
        capacity: Callable[[], int],
    ) -> Taking:
        """Raises ``Transient``, and ``CairnError`` where NATS does not allow the consumer."""
        config: dict[str, Any] = {
            "durable_name": durable,
            "ack_policy": "explicit",
            "ack_wait": int(lease_seconds * NANOSECONDS),
            "max_deliver": -1,
            "max_ack_pending": UNSETTLED_LIMIT,
            "deliver_policy": "all",
        }
        taking = Taking(self._requests, durable, stream, list(filters), config, deliver, capacity, lease_seconds)
        await taking.start()
        return taking

    async def give_back(self, token: str) -> None:
        self._requests.send(token, NAK)


class Taking:
    """One process's share of a durable consumer."""

    def __init__(
        self,
        requests: Requests,
        durable: str,
        stream: str,
        filters: list[str],
        config: dict[str, Any],
        deliver: Callable[[Delivered], None],
        capacity: Callable[[], int],
        lease_seconds: float,
    ) -> None:
        self._requests = requests
        self._durable = durable
        self._stream = stream
        self._filters = filters
        self._config = config
        self._deliver = deliver
        self._capacity = capacity
        # Heartbeats come every second: what is shorter than two of them cannot be told from their coming late.
        self._longest_silence_seconds = max(lease_seconds, 2.0 * HEARTBEAT_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._inbox = b""
        self._subscription: Subscription | None = None
        self._outstanding = 0
        self._heard_at = 0.0
        self._stood_still = False
        self._closing = False
        self._scheduled = False
        self._disturbed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._make_consumer()
        await self._listen()
        self._requests.reconnected.add(self._disturbed.set)
        self._task = asyncio.create_task(self._watch())

    def settle(self, token: str, word: bytes, *, urgent: bool = True) -> None:
        self._requests.send(token, word, urgent=urgent)
        if not self._scheduled:
            # Whoever settles counts its free places only afterwards.
            self._scheduled = True
            self._loop.call_soon(self._request)

    def send(self, token: str, word: bytes) -> None:
        self._requests.send(token, word)

    async def close(self) -> None:
        """Take no more; what is still on its way here is given back."""
        self._closing = True
        self._requests.reconnected.discard(self._disturbed.set)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._subscription is not None:
            subscription, self._subscription = self._subscription, None
            await self._requests.client.drain_receiving(subscription)

    async def _make_consumer(self) -> None:
        subject, config = f"CONSUMER.CREATE.{self._stream}.{self._durable}", dict(self._config)
        if len(self._filters) == 1:
            # Where it stands in the subject too, permissions can say which filter it may have.
            subject, config["filter_subject"] = f"{subject}.{self._filters[0]}", self._filters[0]
        else:
            config["filter_subjects"] = self._filters
        body = {"stream_name": self._stream, "config": config, "action": ""}
        await self._requests.api(subject, body)

    async def _listen(self) -> None:
        """Requests of an earlier subscription die with its inbox: the server sees that nobody listens there."""
        client = self._requests.client
        if self._subscription is not None:
            await client.stop_receiving(self._subscription)
        inbox = client.new_inbox()
        self._inbox = inbox.encode()
        self._subscription = await client.receive(inbox, self._receive)
        self._outstanding = 0
        self._heard_at = self._loop.time()
        self._stood_still = False
        self._request()

    def _request(self) -> None:
        """Ask for as many as fit, unless nearly as many are asked for already."""
        self._scheduled = False
        missing = self._capacity() - self._outstanding
        if self._closing or missing <= 0 or missing < self._outstanding:
            return
        self._outstanding += missing
        body = msgspec.json.encode(
            {
                "batch": missing,
                "expires": EXPIRES_SECONDS * NANOSECONDS,
                "idle_heartbeat": HEARTBEAT_SECONDS * NANOSECONDS,
            }
        )
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}"
        self._requests.send(subject, body, reply=self._inbox)

    def _receive(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        now = self._loop.time()
        if self._outstanding > 0 and now - self._heard_at > self._longest_silence_seconds:
            # A heartbeat would have come long ago: this process stood still, and its leases lapsed meanwhile.
            self._stood_still = True
            self._disturbed.set()
        self._heard_at = now
        if self._stood_still:
            return
        status = status_of(headers) if headers else 0
        if status:
            self._on_status(status, headers)
            return
        if self._closing:
            self._requests.send(reply.decode(), NAK)
            return
        self._outstanding -= 1
        self._deliver(JetStreamDelivered(self, subject, reply, data))
        self._request()

    def _on_status(self, status: int, headers: bytes) -> None:
        if status == 100 or self._closing:
            return
        if status in {404, 408, 409}:
            self._outstanding -= int(header_value(headers, b"Nats-Pending-Messages") or self._outstanding)
        if status == 408:
            self._request()
        else:
            logger.debug("%s: %s", self._durable, headers[9:].decode(errors="replace").strip())
            self._disturbed.set()

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._disturbed.wait()
            except TimeoutError:
                if self._outstanding <= 0:
                    self._heard_at = self._loop.time()
                    self._request()
                elif self._loop.time() - self._heard_at > SILENCE_SECONDS:
                    self._disturbed.set()
            if not self._disturbed.is_set():
                continue
            self._disturbed.clear()
            try:
                await self._make_consumer()
                await self._listen()
            except (CairnError, OSError) as error:
                logger.warning("cannot take commands of %s yet: %s", self._stream, error)
                self._disturbed.set()
            # A server that is not ready yet would otherwise be asked without a pause.
            await asyncio.sleep(REOPEN_SECONDS)
