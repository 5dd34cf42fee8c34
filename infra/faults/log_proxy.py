"""Stands between services and NATS, counts what they append to the log, and strikes at a chosen append.

Every service connects to a port of its own, so that the proxy knows who speaks. Nothing is changed or reordered. When
the append with the chosen number arrives, ``before`` strikes while it is still here, ``after`` when the server has
stored it and its acknowledgement is still here. At that instant everything of the victims is held: their connections
are dead from then on, and what they had sent and the proxy had not passed on never happened. ``strike`` kills their
processes; when it returns, what was held of everybody else goes on.

Only whole processes are modelled: what was passed on to the server before is in flight as with any crash. Connections
that a victim's successor opens are not held.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from infra.faults.wire import Frame, Frames

HOST = "127.0.0.1"
APPEND = b"evt."
READ_BYTES = 262_144

When = Literal["before", "after"]

# The victims, as the names of services; called with the service whose append it is.
Victims = Callable[[str], Sequence[str]]
Strike = Callable[[str], Awaitable[None]]


class Append(msgspec.Struct, frozen=True):
    """An append as it passed: its number since ``arm``, who sent it, and its subject."""

    number: int
    service: str
    subject: str


class _Armed(msgspec.Struct):
    number: int
    when: When
    victims: Victims
    strike: Strike


class LogProxy:
    """``upstream`` (host and port) is to be known when the first service connects. ``appends`` are those since
    ``arm`` or ``count``; ``struck`` is the one at which it struck, or None."""

    def __init__(self) -> None:
        self.upstream = ""
        self.appends: list[Append] = []
        self.struck: Append | None = None
        self._ports: dict[str, int] = {}
        self._servers: list[asyncio.Server] = []
        self._links: set[_Link] = set()
        self._armed: _Armed | None = None

    async def open(self, services: Sequence[str]) -> None:
        """Listen for each of them."""
        for service in services:
            server = await asyncio.start_server(self._serve(service), HOST, 0)
            self._servers.append(server)
            self._ports[service] = server.sockets[0].getsockname()[1]

    def url(self, service: str, upstream_url: str) -> str:
        """Where ``service`` is to connect in place of ``upstream_url``."""
        parts = urlsplit(upstream_url)
        self.upstream = parts.netloc.rpartition("@")[2]
        user = parts.netloc.rpartition("@")[0]
        return f"{parts.scheme}://{user}@{HOST}:{self._ports[service]}"

    def count(self) -> None:
        """Count from 1 again, and strike at nothing."""
        self.appends, self.struck, self._armed = [], None, None

    def arm(self, number: int, when: When, *, victims: Victims, strike: Strike) -> None:
        """Count from 1 again, and strike at the append with that number. ``strike`` is awaited with the name of the
        service whose append it is, after everything of the victims is held."""
        self.count()
        self._armed = _Armed(number, when, victims, strike)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for link in tuple(self._links):
            link.end()

    def _serve(self, service: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            host, _, port = self.upstream.rpartition(":")
            try:
                upstream = await asyncio.open_connection(host, int(port))
            except (OSError, ValueError):
                writer.close()
                return
            link = _Link(self, service, (reader, writer), upstream)
            self._links.add(link)
            try:
                await link.run()
            finally:
                self._links.discard(link)

        return serve

    def appended(self, service: str, frame: Frame) -> tuple[Append, _Armed | None]:
        """Count an append; answers with what is armed where this is the one."""
        append = Append(len(self.appends) + 1, service, frame.subject.decode())
        self.appends.append(append)
        armed = self._armed
        if armed is None or append.number != armed.number:
            return append, None
        self._armed = None
        return append, armed

    async def hit(self, append: Append, armed: _Armed) -> None:
        victims = armed.victims(append.service)
        for link in self._links:
            if link.service in victims:
                link.held = True
        self.struck = append
        # The connection may be that of a server which is struck: its end must not end this.
        await asyncio.shield(asyncio.ensure_future(armed.strike(append.service)))


class _Link:
    """One connection of a service, with the proxy's own to the server."""

    def __init__(
        self,
        proxy: LogProxy,
        service: str,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.service = service
        self.held = False
        self._proxy = proxy
        self._client = client
        self._server = server
        self._awaited: tuple[bytes, Append, _Armed] | None = None

    async def run(self) -> None:
        """Until either side is gone."""
        (from_client, to_client), (from_server, to_server) = self._client, self._server
        directions = [
            asyncio.create_task(self._pass(from_client, to_server, self._sent)),
            asyncio.create_task(self._pass(from_server, to_client, self._received)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.end()
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    def end(self) -> None:
        for _, writer in (self._client, self._server):
            with contextlib.suppress(RuntimeError):  # The loop is closed already.
                writer.close()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        look: Callable[[Frame], Awaitable[None]],
    ) -> None:
        frames = Frames()
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                for frame in frames.feed(data):
                    if not self.held:
                        await look(frame)
                    if self.held:
                        await reader.read()  # Until the process at the other end is gone.
                        return
                    writer.write(frame.raw)
                await writer.drain()

    async def _sent(self, frame: Frame) -> None:
        if not frame.subject.startswith(APPEND):
            return
        append, armed = self._proxy.appended(self.service, frame)
        if armed is None:
            return
        if armed.when == "before":
            await self._proxy.hit(append, armed)
        else:
            self._awaited = (frame.reply, append, armed)

    async def _received(self, frame: Frame) -> None:
        if self._awaited is not None and frame.subject == self._awaited[0]:
            _, append, armed = self._awaited
            self._awaited = None
            await self._proxy.hit(append, armed)
