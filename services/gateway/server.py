"""uvicorn inside our own frame: our signals, our logs, a socket that was bound before anything else started."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from events.errors import CairnError
from infra.settings import Gateway

GRACE_SECONDS = 5


class PortUnusable(CairnError):
    """The gateway cannot listen where the settings say; the message says why and what to change."""


def bind(gateway: Gateway) -> socket.socket:
    """A socket on the gateway's address that does not listen yet. Raises ``PortUnusable``."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(gateway.host, gateway.port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise _unusable(gateway, str(error)) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        bound.close()
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise _unusable(gateway, "in use" if in_use else str(error)) from error
    return bound


def _unusable(gateway: Gateway, why: str) -> PortUnusable:
    where = f"port {gateway.port} of {gateway.host}"
    said = f"{where} is in use" if why == "in use" else f"{where} cannot be used ({why})"
    return PortUnusable(f"{said}: set gateway.port or gateway.host (CAIRN_GATEWAY__PORT, CAIRN_GATEWAY__HOST).")


class Server(uvicorn.Server):
    """Serves until ``stop``. Signals are the frame's."""

    def __init__(self, app: ASGIApp, bound: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self._bound = bound
        self._listening = asyncio.Event()

    @property
    def url(self) -> str:
        host, port = self._bound.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self) -> asyncio.Task[None]:
        """Listen; the task that serves ends with ``stop``."""
        serving = asyncio.create_task(self.serve([self._bound]))
        listening = asyncio.create_task(self._listening.wait())
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        return serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
