"""Requests over one inbox: publish with an own reply subject, find the waiting future by its last token.

Raises, inside this package only: ``Lost`` where no answer came (time, disconnection, nobody listens), after which the
message may or may not have been stored; ``Refused`` where JetStream answered with an error.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from events.errors import CairnError, Invalid, Permanent, Transient
from infra.jetstream.client import LeanClient, publication

logger = logging.getLogger("cairn.jetstream")

TIMEOUT_SECONDS = 5.0
PATIENCE_SECONDS = 12.0
PAUSE_SECONDS = 0.05
SWEEP_SECONDS = 0.25
# Room for the subject and the headers in a message of the server's greatest size.
HEADER_ROOM_BYTES = 4096

NO_HEADERS = b""
_UNFIT = re.compile(r"[\s*>]")
_LINE_BREAK = re.compile(r"[\r\n]")
_DENIED = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')

T = TypeVar("T")


class Lost(Exception):
    """No answer came."""


class ApiError(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class Refused(CairnError):
    """JetStream answered with an error; ``code`` is its own number for it."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.description)
        self.code = error.err_code


class Ack(msgspec.Struct, frozen=True):
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class Reply(NamedTuple):
    headers: bytes
    data: bytes


class _Waiting(NamedTuple):
    future: asyncio.Future[Reply]
    deadline: float
    subject: str


_decode_ack = msgspec.json.Decoder(Ack).decode


def header_block(*fields: tuple[str, str]) -> bytes:
    """A NATS header block. Raises ``Invalid`` where a value would end its line."""
    lines = ["NATS/1.0"]
    for name, value in fields:
        if _LINE_BREAK.search(value):
            message = f"{value!r} cannot be the header {name}: it has a line break."
            raise Invalid(message)
        lines.append(f"{name}: {value}")
    return "\r\n".join((*lines, "\r\n")).encode()


def header_value(headers: bytes, name: bytes) -> str:
    """The last value of a header, empty where it is not there. (The server puts its own after the sender's.)"""
    start = headers.rfind(b"\r\n" + name + b":")
    if start < 0:
        return ""
    start += len(name) + 3
    return headers[start : headers.index(b"\r\n", start)].strip().decode(errors="replace")


def status_of(headers: bytes) -> int:
    """The status code that the server put in place of a message, 0 for a message."""
    return int(headers[9:12]) if headers[8:9] == b" " and headers[9:12].isdigit() else 0


def is_subject(subject: str) -> bool:
    """Whether something can be published on it."""
    return not (_UNFIT.search(subject) or ".." in subject or subject.endswith("."))


def checked_subject(subject: str) -> str:
    if not is_subject(subject):
        message = f"{subject!r} cannot be a subject: ids must not be empty or have spaces, '*' or '>' in them."
        raise Invalid(message, slug="invalid-name")
    return subject


class Requests:
    """``client`` must be connected when ``start`` is called; afterwards it may come and go.

    ``reconnected`` holds what is to be called each time it has come back. ``replicated`` says whether a stream may
    have replicas, which may be behind its leader; it holds until the streams were looked at. ``patience_seconds`` is
    how long an operation waits for a server that is away before it gives up with ``Transient``.
    """

    def __init__(self, client: LeanClient) -> None:
        self.client = client
        self.replicated = True
        self.patience_seconds = PATIENCE_SECONDS
        self.reconnected: set[Callable[[], None]] = set()
        self._loop = asyncio.get_running_loop()
        self._inbox = b""
        self._numbers = itertools.count(1)
        self._waiting: dict[bytes, _Waiting] = {}
        self._collectors: dict[bytes, tuple[Callable[[bytes, bytes], None], asyncio.Future[Any]]] = {}
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self._inbox = self.client.new_inbox().encode() + b"."
        await self.client.receive(self._inbox.decode() + "*", self._receive)

    def stop(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        self.lose("the connection was closed")

    def send(
        self, subject: str, data: bytes, headers: bytes = NO_HEADERS, *, reply: bytes = b"", urgent: bool = True
    ) -> bool:
        """Publish without waiting; False where it could not even be kept for later."""
        return self.client.write(publication(subject, data, reply=reply, headers=headers), urgent=urgent)

    async def request(
        self,
        subject: str,
        data: bytes = b"",
        headers: bytes = NO_HEADERS,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Reply:
        """One attempt, of no longer than patience lasts. Raises ``Lost``, ``Permanent`` where it is too large or not
        permitted."""
        if len(data) + len(headers) > self.client.max_payload:
            message = f"{len(data):,} bytes on {subject} are more than the NATS server's max_payload, "
            raise Permanent(message + f"{self.client.max_payload:,}.", slug="too-large")
        if not self.client.ready.is_set():
            message = "no connection"
            raise Lost(message)
        key, future = self.expect(subject, min(timeout_seconds, self.patience_seconds))
        if not self.send(subject, data, headers, reply=key):
            self._waiting.pop(key, None)
            message = "the connection is closed or too much waits for it"
            raise Lost(message)
        reply = await future
        if reply.headers and status_of(reply.headers) == 503:
            message = f"nobody listens on {subject}"
            raise Lost(message)
        return reply

    def expect(self, subject: str, timeout_seconds: float) -> tuple[bytes, asyncio.Future[Reply]]:
        """A reply subject and the future of the one reply that will come to it."""
        key = b"%b%d" % (self._inbox, next(self._numbers))
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[key] = _Waiting(future, self._loop.time() + timeout_seconds, subject)
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP_SECONDS, self._time_out)
        return key, future

    def collect(self, receive: Callable[[bytes, bytes], None], done: asyncio.Future[Any]) -> bytes:
        """A reply subject whose every reply goes to ``receive(headers, data)`` until ``dismiss``.

        ``done`` gets ``Lost`` where the connection breaks meanwhile.
        """
        key = b"%b%d" % (self._inbox, next(self._numbers))
        self._collectors[key] = (receive, done)
        return key

    def dismiss(self, key: bytes) -> None:
        self._collectors.pop(key, None)

    async def publish_once(self, subject: str, data: bytes, headers: bytes) -> Ack:
        """One publish with its acknowledgement. Raises ``Lost``, ``Refused``, ``Permanent``."""
        reply = await self.request(subject, data, headers)
        try:
            ack = _decode_ack(reply.data)
        except msgspec.MsgspecError as error:
            message = f"an acknowledgement that cannot be read: {error}"
            raise Lost(message) from error
        if ack.error is not None:
            raise Refused(ack.error)
        return ack

    async def publish(self, subject: str, data: bytes, headers: bytes) -> Ack:
        """Publish, again and again while the server is away: for messages whose id makes a repeat harmless."""
        return await self.patiently(lambda: self.publish_once(subject, data, headers), f"storing on {subject}")

    async def api(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """A request to the JetStream API, patiently. Raises ``Refused``, ``Transient``."""
        data = b"" if body is None else msgspec.json.encode(body)

        async def once() -> dict[str, Any]:
            answer: dict[str, Any] = msgspec.json.decode((await self.request(f"$JS.API.{subject}", data)).data)
            if "error" in answer:
                raise Refused(msgspec.convert(answer["error"], ApiError))
            return answer

        return await self.patiently(once, subject)

    async def patiently(self, attempt: Callable[[], Awaitable[T]], what: str) -> T:
        """``attempt`` until it is not ``Lost``; when patience is over raises ``Transient``."""
        deadline = self._loop.time() + self.patience_seconds
        while True:
            try:
                await self.wait_ready(deadline)
                return await attempt()
            except Lost as error:
                if self._loop.time() + PAUSE_SECONDS >= deadline:
                    message = f"NATS does not answer ({what}): {error}"
                    raise Transient(message) from error
                await asyncio.sleep(PAUSE_SECONDS)

    async def wait_ready(self, deadline: float) -> None:
        """Return when the connection stands; ``Lost`` at ``deadline`` (loop time)."""
        if self.client.ready.is_set():
            return
        try:
            async with asyncio.timeout_at(deadline):
                await self.client.ready.wait()
        except TimeoutError:
            message = "no connection"
            raise Lost(message) from None

    def lose(self, reason: str) -> None:
        """Nothing that is under way will be answered any more."""
        waiting, self._waiting = self._waiting, {}
        for item in waiting.values():
            if not item.future.done():
                item.future.set_exception(Lost(reason))
        for _, done in self._collectors.values():
            if not done.done():
                done.set_exception(Lost(reason))

    def deny(self, error: str) -> None:
        """The server refused a publish for want of a permission: whoever waits for it learns it at once."""
        match = _DENIED.search(error.lower())
        if match is None:
            return
        for key, item in list(self._waiting.items()):
            if item.subject.lower() == match[2]:
                del self._waiting[key]
                if not item.future.done():
                    message = (
                        f"The NATS user of this process may not publish to {item.subject}: extend its permissions."
                    )
                    item.future.set_exception(Permanent(message, slug="not-permitted"))

    def _receive(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        waiting = self._waiting.pop(subject, None)
        if waiting is not None:
            if not waiting.future.done():
                waiting.future.set_result(Reply(headers, data))
            return
        collector = self._collectors.get(subject)
        if collector is not None:
            collector[0](headers, data)

    def _time_out(self) -> None:
        now = self._loop.time()
        for key in [key for key, item in self._waiting.items() if item.deadline <= now or item.future.done()]:
            item = self._waiting.pop(key)
            if not item.future.done():
                item.future.set_exception(Lost(f"no answer in time on {item.subject}"))
        self._sweep = self._loop.call_later(SWEEP_SECONDS, self._time_out) if self._waiting else None
