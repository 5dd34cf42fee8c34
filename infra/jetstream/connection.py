"""The one connection of a process to NATS, and everything behind it.

The connection comes back by itself for as long as the process lives. While it is away, operations wait up to
``PATIENCE_SECONDS``, or what ``give_up_after`` says, and then raise ``Transient``; followers and command sources go
on where they were. Pings notice a half-open socket after about six seconds.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import nats.errors

from events.errors import CairnError, Permanent, Transient
from infra.jetstream.client import LeanClient, NotEncrypted
from infra.jetstream.command_bus import JetStreamCommandBus
from infra.jetstream.content_store import JetStreamContentStore
from infra.jetstream.dead_letters import JetStreamDeadLetters
from infra.jetstream.event_log import JetStreamEventLog
from infra.jetstream.host_registry import JetStreamHostRegistry
from infra.jetstream.output_store import JetStreamOutputStore
from infra.jetstream.requests import Requests
from infra.jetstream.run_leases import JetStreamRunLeases
from infra.jetstream.source import JetStreamCommandSource
from infra.jetstream.streams import make_streams, verify_streams
from infra.jetstream.takers import JetStreamTakers
from infra.settings import Nats, Settings

logger = logging.getLogger("cairn.jetstream")

CONNECT_SECONDS = 10.0
RECONNECT_SECONDS = 0.2
PING_SECONDS = 2
PINGS = 2
FLUSH_SECONDS = 2


class JetStream:
    """``log``, ``commands``, ``source``, ``content``, ``output``, ``dead_letters``, ``hosts`` and ``leases``
    implement ``infra.ports``."""

    def __init__(self, settings: Settings, client: LeanClient, requests: Requests) -> None:
        tenant = settings.tenant
        self.log = JetStreamEventLog(requests, tenant)
        self.commands = JetStreamCommandBus(requests, tenant)
        self.source = JetStreamCommandSource(requests)
        self.content = JetStreamContentStore(requests, tenant)
        self.output = JetStreamOutputStore(requests, tenant)
        self.dead_letters = JetStreamDeadLetters(requests, tenant)
        self.hosts = JetStreamHostRegistry(requests, tenant)
        self.leases = JetStreamRunLeases(requests, tenant)
        self.takers = JetStreamTakers(requests, tenant)
        self._settings = settings
        self._client = client
        self._requests = requests
        self._restored: list[Callable[[], None]] = []
        self._restoring: asyncio.Task[None] | None = None
        self._managing = False
        self._last_error: Exception | None = None

    @classmethod
    async def connect(cls, settings: Settings, name: str, *, timeout_seconds: float = CONNECT_SECONDS) -> JetStream:
        """Raises ``Transient`` where the server cannot be reached in time, ``CairnError`` where it turns us away,
        ``Permanent`` where the credentials cannot be read."""
        credentials, tls = _read(settings.nats.credentials_file), _tls(settings.nats)
        client = LeanClient(must_encrypt=tls is not None)
        requests = Requests(client)
        stream = cls(settings, client, requests)
        refused: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        connecting = asyncio.create_task(stream._open(name, credentials, tls, refused))
        done, _ = await asyncio.wait(
            (connecting, refused), timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if connecting in done and connecting.exception() is None:
            return stream
        connecting.cancel()
        await asyncio.wait([connecting])
        await stream.close()
        shown = settings.nats.shown_url
        if refused.done():
            raise _turned_away(shown, refused.result()) from refused.result()
        cause = (connecting.exception() if connecting in done else None) or stream._last_error
        message = f"NATS at {shown} cannot be reached within {timeout_seconds:g} s: {cause or 'no answer'}."
        raise Transient(message) from cause

    async def _open(
        self, name: str, credentials: str, tls: ssl.SSLContext | None, refused: asyncio.Future[Exception]
    ) -> None:
        async def on_error(error: Exception) -> None:
            self._last_error = error
            self._requests.deny(str(error))
            logger.debug("NATS: %s: %s", type(error).__name__, error)
            if _is_refusal(error) and not refused.done():
                refused.set_result(error)

        has_token = "BEGIN NATS USER JWT" in credentials
        await self._client.connect(
            [part.strip() for part in self._settings.nats.url.split(",")],
            name=f"cairn {name}",
            inbox_prefix=self._settings.nats.inbox,
            error_cb=on_error,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            closed_cb=self._on_disconnect,
            user_credentials=self._settings.nats.credentials_file if has_token else None,
            nkeys_seed_str=None if has_token else credentials or None,
            tls=tls,
            max_reconnect_attempts=-1,
            # Declared as whole seconds by nats-py, which only sleeps for it.
            reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]
            ping_interval=PING_SECONDS,
            max_outstanding_pings=PINGS,
        )
        self._client.ready.set()
        await self._requests.start()

    async def _on_disconnect(self) -> None:
        self._client.ready.clear()
        self._requests.lose("the connection broke")
        self.commands.hold()
        if not self._client.is_closed:
            logger.warning("the connection to NATS is lost; trying to come back")

    async def _on_reconnect(self) -> None:
        self._client.ready.set()
        logger.warning("the connection to NATS is back")
        for callback in tuple(self._requests.reconnected):
            callback()
        if self._restoring is not None:
            self._restoring.cancel()
        self._restoring = asyncio.create_task(self._restore())

    async def _restore(self) -> None:
        """Make the streams that a restarted server kept in memory only, then let everyone go on."""
        while self._settings.nats.manage_streams and self._managing:
            try:
                await self.ensure_streams()
                break
            except CairnError as error:
                logger.warning("the streams cannot be looked after yet: %s", error)
                await asyncio.sleep(RECONNECT_SECONDS)
        self.commands.release()
        for callback in tuple(self._restored):
            callback()

    @property
    def connected(self) -> bool:
        return self._client.ready.is_set() and self._client.is_connected

    def give_up_after(self, seconds: float) -> None:
        """Operations wait for a server that is away only so long: for those who answer people."""
        self._requests.patience_seconds = seconds

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` each time the connection has come back and the streams are there.

        The stream CALLS is kept in memory: what was in it may be gone, so its commands must be derived again.
        """
        self._restored.append(callback)

    async def ensure_streams(self) -> None:
        """Make the streams, or verify them where ``nats.manage_streams`` is false. Raises ``StreamUnfit``."""
        ensure = make_streams if self._settings.nats.manage_streams else verify_streams
        await ensure(self._requests, self._settings.tenant, self._settings.nats.replicas)
        self._managing = True

    async def close(self) -> None:
        """Send what is still to be sent, then close."""
        if self._restoring is not None:
            self._restoring.cancel()
        try:
            if self.connected:
                await self._client.flush(FLUSH_SECONDS)
            self._requests.stop()
            await self._client.close()
        except (nats.errors.Error, OSError) as error:
            logger.debug("closing a broken connection: %s", error)


def _is_refusal(error: Exception) -> bool:
    """Whether asking again helps nothing. A handshake that broke off is none: a server that dies looks like that."""
    if isinstance(error, ssl.SSLError):
        return isinstance(error, ssl.SSLCertVerificationError) or "ALERT" in (error.reason or "")
    return isinstance(error, NotEncrypted) or "authorization violation" in str(error).lower()


def _turned_away(shown_url: str, error: Exception) -> CairnError:
    if isinstance(error, ssl.SSLCertVerificationError):
        message = (
            f"NATS at {shown_url} shows a certificate that is not trusted: {error.verify_message}. Check nats.tls_ca."
        )
    elif isinstance(error, ssl.SSLError):
        message = f"NATS at {shown_url} broke off TLS: {error.reason}. Check nats.tls_cert and nats.tls_key."
    elif isinstance(error, NotEncrypted):
        message = (
            f"NATS at {shown_url} is not spoken to: {error}. Add a tls block to its configuration, or leave out tls:// "
            "and nats.tls_ca."
        )
    else:
        message = f"NATS at {shown_url} turned us away: {error}. Check nats.url and nats.credentials_file."
    return CairnError(message)


def _tls(nats: Nats) -> ssl.SSLContext | None:
    """How to encrypt; None where that is not asked for."""
    if not nats.is_encrypted:
        return None
    setting, file = "tls_ca", nats.tls_ca
    try:
        context = ssl.create_default_context(cafile=nats.tls_ca or None)
        if nats.tls_cert:
            setting, file = "tls_cert", f"{nats.tls_cert} with nats.tls_key {nats.tls_key or nats.tls_cert}"
            context.load_cert_chain(nats.tls_cert, nats.tls_key or None)
    except (OSError, ValueError) as error:  # An SSLError is an OSError too.
        message = f"nats.{setting} {file} cannot be used: {error}"
        raise Permanent(message, slug="nats-credentials") from error
    return context


def _read(file: str) -> str:
    """The content of the credentials file, empty where there is none."""
    if not file:
        return ""
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        message = f"nats.credentials_file {file} cannot be read: {error}"
        raise Permanent(message, slug="nats-credentials") from error
