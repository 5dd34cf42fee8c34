"""nats-py's client with a short way in and a short way out.

nats-py takes each received message through a queue and a task of its subscription, parses its headers into a dict,
and puts each sent one through a queue to its flusher. Two hops of the event loop a message are most of what a small
request costs. Here a subscription can have a plain function that is called while the socket is read, with the raw
header bytes, and a command can be written to the socket at once. Connecting, authentication, TLS, the list of
servers, pings and resubscribing stay nats-py's.

This is the one file that uses private names of nats-py (there are no public ones for it): ``_process_msg``,
``_process_info``, ``_process_err``, ``_process_op_err``, ``_attempt_reconnect``, ``_pending``, ``_pending_data_size``,
``_flush_queue``, ``_transport``, ``_io_writer``. The version is pinned for that reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol.parser import PERMISSIONS_ERR

logger = logging.getLogger("cairn.jetstream")

# What may wait for a reconnection; more is dropped.
MAX_WAITING_BYTES = 8 * 1024 * 1024
FLUSH_SECONDS = 2
LEISURE_SECONDS = 0.002

# subject, reply, headers (b"" where there are none), data
Receive = Callable[[bytes, bytes, bytes, bytes], None]


class NotEncrypted(nats.errors.Error):
    """The server does not offer TLS, and nothing may be said without."""

    def __str__(self) -> str:
        return "it does not offer TLS"


class LeanClient(Client):
    """With ``must_encrypt`` nothing is sent to a server that does not offer TLS."""

    def __init__(self, *, must_encrypt: bool = False) -> None:
        super().__init__()
        self._must_encrypt = must_encrypt
        self._receivers: dict[int, Receive] = {}
        self._outgoing: list[bytes] = []
        self._writing_soon = False
        self.ready = asyncio.Event()

    async def receive(self, subject: str, receive: Receive) -> Subscription:
        """Subscribe; ``receive`` is called while the socket is read, so it must be quick."""
        subscription = await self.subscribe(subject)
        self._receivers[subscription._id] = receive
        return subscription

    async def stop_receiving(self, subscription: Subscription) -> None:
        """Unsubscribe. What the server sent before it heard of it is dropped from now on."""
        self._receivers.pop(subscription._id, None)
        if not self.is_closed:
            await subscription.unsubscribe()

    async def drain_receiving(self, subscription: Subscription) -> None:
        """Unsubscribe; what the server sent before it heard of it is still received before this returns."""
        if self.ready.is_set():
            await subscription.unsubscribe()
            try:
                await self.flush(FLUSH_SECONDS)
            except (nats.errors.Error, OSError) as error:
                logger.debug("the end of a subscription was not confirmed: %s", error)
            self._receivers.pop(subscription._id, None)
        else:
            await self.stop_receiving(subscription)

    def write(self, command: bytes, *, urgent: bool = True) -> bool:
        """Send a protocol command, or keep it for the time after a reconnection; False where that is full.

        What is not urgent leaves with the next that is, or after ``LEISURE_SECONDS``.
        """
        if self._outgoing or (self.ready.is_set() and self.is_connected and not self._pending):
            self._outgoing.append(command)
            self._schedule_writing(urgent=urgent)
            return True
        if self.is_closed or self._pending_data_size + len(command) > MAX_WAITING_BYTES:
            return False
        self._pending.append(command)
        self._pending_data_size += len(command)
        if self.is_connected and self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())
        return True

    def _schedule_writing(self, *, urgent: bool) -> None:
        """A system call costs as much as all the rest of a message: one turn of the event loop makes one."""
        if urgent and not self._writing_soon:
            self._writing_soon = True
            asyncio.get_running_loop().call_soon(self._write_outgoing)
        elif not urgent and len(self._outgoing) == 1:
            asyncio.get_running_loop().call_later(LEISURE_SECONDS, self._write_outgoing)

    def _write_outgoing(self) -> None:
        commands, self._outgoing, self._writing_soon = self._outgoing, [], False
        if not commands:
            return
        if self.ready.is_set() and self.is_connected and not self._pending and self._transport is not None:
            self._transport.write(b"".join(commands))
        else:
            for command in commands:
                self.write(command)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        receive = self._receivers.get(sid)
        if receive is None:
            # nats-py says that headers are never None, and passes None where there are none.
            await super()._process_msg(sid, subject, reply, data, headers)  # type: ignore[arg-type]
            return
        try:
            receive(subject, reply, headers or b"", data)
        except Exception:  # It would end nats-py's read loop, and with it the connection of everyone here.
            logger.exception("a receiver failed", extra={"subject": subject.decode(errors="replace")})

    async def close(self) -> None:
        self._write_outgoing()
        if not self.is_connected:
            # nats-py would write it to the broken socket and stop closing at the error.
            self._pending = []
            self._pending_data_size = 0
        await super().close()

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # Of each connection this is the first that comes; nats-py would go on in the clear even with tls://.
        if initial_connection and self._must_encrypt and not info.get("tls_required"):
            raise NotEncrypted
        await super()._process_info(info, initial_connection)

    async def _process_err(self, err_msg: str) -> None:
        # nats-py closes for good at any other error, such as expired credentials or a server's limit.
        if PERMISSIONS_ERR in err_msg:
            await super()._process_err(err_msg)
        else:
            error = nats.errors.Error(f"nats: {err_msg}")
            await self._error_cb(error)
            await self._process_op_err(error)

    async def _attempt_reconnect(self) -> None:
        # nats-py closes the old socket politely, which on a half-open one waits for minutes for what is unsent.
        self.ready.clear()
        writer: Any = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        await super()._attempt_reconnect()


def publication(subject: str, data: bytes, *, reply: bytes = b"", headers: bytes = b"") -> bytes:
    """The PUB or HPUB command; ``headers`` is a whole header block (see ``header_block``)."""
    if headers:
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (
            subject.encode(),
            reply,
            len(headers),
            len(headers) + len(data),
            headers,
            data,
        )
    return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply, len(data), data)
