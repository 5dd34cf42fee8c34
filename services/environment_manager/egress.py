"""The way out of a container without a network: a proxy that knows where its environment may go.

``python -m services.environment_manager.egress DIRECTORY HOST…`` detaches itself and serves HTTP proxying (RFC 9110,
section 9.3.6 for CONNECT, RFC 9112 for absolute targets) on the Unix socket of the environment's directory, which the
container reaches through its shim's relay. It outlives the environment-manager, as shims do, and ends when its socket
is gone.

A host is let through that the list names, or any below ``*.DOMAIN``, or with ``*`` every public address. Addresses are
looked up here and connected to as they were found, so that a name cannot lead elsewhere between the two. Private and
local addresses are reached only where the host is named itself. What is said inside a tunnel is not looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from events.sandboxes import ANY_PUBLIC
from services.environment_manager.shim import EGRESS_SOCKET

HEAD_BYTES = 65_536
HEAD_SECONDS = 30.0
CONNECT_SECONDS = 20.0
LOOK_SECONDS = 5.0
PIECE_BYTES = 65_536

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Refused(Exception):
    """The status of the answer, and its text."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


def is_named(host: str, allowed: Sequence[str]) -> bool:
    """Whether the list names the host itself, or a domain that it is below."""
    name = host.lower().rstrip(".")
    return any(
        name == item.lower() or (item.startswith("*.") and name.endswith(item[1:].lower()))
        for item in allowed
        if item != ANY_PUBLIC
    )


def is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_global and not parsed.is_multicast


class Proxy:
    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = allowed

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of the container."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_SECONDS)
            target, rest = await self._connected(head)
        except Refused as error:
            body = f"{error}\n".encode()
            status = f"{error.status.value} {error.status.phrase}"
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            writer.write(head)
            writer.write(body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        else:
            if rest is None:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                target[1].write(rest)
            await asyncio.gather(_copy(reader, target[1]), _copy(target[0], writer))
            target[1].close()
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    async def _connected(self, head: bytes) -> tuple[Streams, bytes | None]:
        """The connection that a request's head asks for, and what to send there first; None for a tunnel."""
        line, _, fields = head.partition(b"\r\n")
        try:
            method, target, version = line.decode("ascii").split(" ")
        except ValueError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, "This is a proxy: send CONNECT or a whole URL.") from error
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            return await self._open(host.strip("[]"), port), None
        parts = urlsplit(target)
        if parts.scheme != "http" or not parts.hostname:
            raise Refused(
                HTTPStatus.BAD_REQUEST, "This is a proxy: send CONNECT or a whole URL that begins with http://."
            )
        path = parts._replace(scheme="", netloc="").geturl() or "/"
        kept = [
            field
            for field in fields.split(b"\r\n")
            if field and not field.lower().startswith((b"proxy-", b"connection:", b"keep-alive:"))
        ]
        # One request a connection: a second one on it could be for another host.
        begin = f"{method} {path} {version}\r\n".encode() + b"\r\n".join([*kept, b"Connection: close", b"", b""])
        return await self._open(parts.hostname, str(parts.port or 80)), begin

    async def _open(self, host: str, port: str) -> Streams:
        named = is_named(host, self._allowed)
        if not named and ANY_PUBLIC not in self._allowed:
            raise Refused(
                HTTPStatus.FORBIDDEN,
                f"{host} is not among the hosts that this project's network allows: {self._shown()}.",
            )
        if not port.isdigit() or not 0 < int(port) < 65_536:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{port!r} is no port.")
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except OSError as error:
            raise Refused(HTTPStatus.BAD_GATEWAY, f"{host} has no address: {error}.") from error
        addresses = [str(item[4][0]) for item in found]
        usable = [address for address in addresses if named or is_public(address)]
        if not usable:
            raise Refused(
                HTTPStatus.FORBIDDEN,
                f"{host} is at {addresses[0]}, which is private: the project must allow it by name.",
            )
        for address in usable:
            with contextlib.suppress(OSError, TimeoutError):
                return await asyncio.wait_for(asyncio.open_connection(address, int(port)), CONNECT_SECONDS)
        raise Refused(
            HTTPStatus.BAD_GATEWAY, f"{host} at {', '.join(usable)} does not accept connections on port {port}."
        )

    def _shown(self) -> str:
        return ", ".join(self._allowed) or "none"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(PIECE_BYTES):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def serve(directory: int, ready: int, allowed: Sequence[str]) -> None:
    """Serve in the open ``directory``, wherever it is moved, until the socket is gone; a byte to ``ready`` says that
    it does."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(EGRESS_SOCKET, dir_fd=directory)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/proc/self/fd/{directory}/{EGRESS_SOCKET}")  # An address holds 107 bytes, a path of ours more.
    os.chmod(f"/proc/self/fd/{directory}/{EGRESS_SOCKET}", 0o666)  # noqa: PTH101 - by the handle; the folder is closed to others
    own = os.stat(EGRESS_SOCKET, dir_fd=directory).st_ino
    await asyncio.start_unix_server(Proxy(allowed).serve, sock=listener, limit=HEAD_BYTES)
    os.write(ready, b"\0")
    os.close(ready)
    with contextlib.suppress(FileNotFoundError):
        while os.stat(EGRESS_SOCKET, dir_fd=directory).st_ino == own:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(LOOK_SECONDS)


def main() -> int:
    directory = os.open(Path(sys.argv[1]), os.O_RDONLY | os.O_DIRECTORY)
    read, write = os.pipe()
    if os.fork() == 0:
        os.close(read)
        os.setsid()
        asyncio.run(serve(directory, write, sys.argv[2:]))
        return 0
    os.close(write)
    return 0 if os.read(read, 1) else 1


if __name__ == "__main__":
    sys.exit(main())
