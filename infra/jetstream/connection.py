"""The one connection of a process to NATS, and everything behind it.

The connection comes back by itself for as long as the process lives. While it is away, operations wait up to
``PATIENCE_SECONDS`` and then raise ``Transient``; followers and command sources go on where they were. Pings notice
a half-open socket after about six seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import nats.errors

from events.errors import CairnError, Transient
from infra.jetstream.client import LeanClient
from infra.jetstream.command_bus import JetStreamCommandBus
from infra.jetstream.content_store import JetStreamContentStore
from infra.jetstream.dead_letters import JetStreamDeadLetters
from infra.jetstream.event_log import JetStreamEventLog
from infra.jetstream.output_store import JetStreamOutputStore
from infra.jetstream.requests import Requests
from infra.jetstream.source import JetStreamCommandSource
from infra.jetstream.streams import make_streams, verify_streams
from infra.settings import Settings

logger = logging.getLogger("cairn.jetstream")

CONNECT_SECONDS = 10.0
RECONNECT_SECONDS = 0.2
PING_SECONDS = 2
PINGS = 2
FLUSH_SECONDS = 2


class JetStream:
    """``log``, ``commands``, ``source``, ``content``, ``output`` and ``dead_letters`` implement ``infra.ports``."""

    def __init__(self, settings: Settings, client: LeanClient, requests: Requests) -> None:
        tenant = settings.tenant
        self.log = JetStreamEventLog(requests, tenant)
        self.commands = JetStreamCommandBus(requests, tenant)
        self.source = JetStreamCommandSource(requests)
        self.content = JetStreamContentStore(requests, tenant)
        self.output = JetStreamOutputStore(requests, tenant)
        self.dead_letters = JetStreamDeadLetters(requests, tenant)
        self._settings = settings
        self._client = client
        self._requests = requests

    @classmethod
    async def connect(cls, settings: Settings, name: str, *, timeout_seconds: float = CONNECT_SECONDS) -> JetStream:
        """Raises ``Transient`` where the server cannot be reached in time, ``CairnError`` where it turns us away."""
        client = LeanClient()
        requests = Requests(client)
        seen: list[BaseException] = []

        async def on_error(error: Exception) -> None:
            seen[:] = [error]
            requests.deny(str(error))
            logger.debug("NATS: %s: %s", type(error).__name__, error)

        async def on_disconnect() -> None:
            client.ready.clear()
            requests.lose("the connection broke")
            if not client.is_closed:
                logger.warning("the connection to NATS is lost; trying to come back")

        async def on_reconnect() -> None:
            client.ready.set()
            logger.warning("the connection to NATS is back")
            for callback in tuple(requests.reconnected):
                callback()

        async def on_close() -> None:
            client.ready.clear()

        url, shown = settings.nats.url, settings.nats.shown_url
        try:
            async with asyncio.timeout(timeout_seconds):
                await client.connect(
                    [part.strip() for part in url.split(",")],
                    name=f"cairn {name}",
                    error_cb=on_error,
                    disconnected_cb=on_disconnect,
                    reconnected_cb=on_reconnect,
                    closed_cb=on_close,
                    user_credentials=settings.nats.credentials_file or None,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]
                    ping_interval=PING_SECONDS,
                    max_outstanding_pings=PINGS,
                )
                client.ready.set()
                await requests.start()
        except (TimeoutError, OSError, nats.errors.Error) as error:
            cause = seen[0] if seen else error
            await client.close()
            if "authorization" in str(cause).lower():
                message = f"NATS at {shown} turned us away: {cause}. Check nats.url and nats.credentials_file."
                raise CairnError(message) from cause
            why = cause or type(cause).__name__
            message = f"NATS at {shown} cannot be reached within {timeout_seconds:g} s: {why}."
            raise Transient(message) from cause
        return cls(settings, client, requests)

    @property
    def connected(self) -> bool:
        return self._client.ready.is_set() and self._client.is_connected

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` each time the connection has come back."""
        self._requests.reconnected.add(callback)

    async def ensure_streams(self) -> None:
        """Make the streams, or verify them where ``nats.manage_streams`` is false. Raises ``StreamUnfit``."""
        ensure = make_streams if self._settings.nats.manage_streams else verify_streams
        await ensure(self._requests, self._settings.tenant, self._settings.nats.replicas)

    async def close(self) -> None:
        """Send what is still to be sent, then close."""
        try:
            if self.connected:
                await self._client.flush(FLUSH_SECONDS)
        except (nats.errors.Error, OSError) as error:
            logger.debug("closing without a flush: %s", error)
        self._requests.stop()
        await self._client.close()
