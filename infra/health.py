"""Health: whether the process lives (``/health``), whether it can do its work (``/ready``), and ``/metrics``.

A responder of its own on the event loop, so that it answers before everything else has started and costs no import.
It closes each connection after one answer and knows nothing but GET of three paths.

``/health`` is 200 as long as the loop turns. ``/ready`` is 200 when every condition is met, else 503 with the list of
those that are not. A condition is set by ``condition``, or asked for at each request by ``probe``.
"""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable
from http import HTTPStatus

from events.errors import Permanent
from infra.settings import Telemetry

REQUEST_SECONDS = 5.0
PORT_OFF = -1

_JSON = "application/json"


class Health:
    """The conditions of one process, and the responder that tells them."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._reasons: dict[str, str] = {}
        self._probes: dict[str, Callable[[], str]] = {}
        self._server: asyncio.Server | None = None
        self.url = ""

    def condition(self, name: str, met: bool, reason: str = "") -> None:
        """``name`` is met or not; ``reason`` says why not."""
        self._reasons[name] = "" if met else reason or "not met"

    def probe(self, name: str, ask: Callable[[], str]) -> None:
        """``ask`` answers at each request with why ``name`` is not met, or empty. It must not block or raise."""
        self._probes[name] = ask

    def unmet(self) -> dict[str, str]:
        """The conditions that are not met, each with its reason."""
        asked = {name: ask() for name, ask in self._probes.items()}
        return {name: reason for name, reason in (self._reasons | asked).items() if reason}

    async def serve(self, settings: Telemetry) -> None:
        """Begin to answer; ``url`` is where. Raises ``Permanent`` where the port cannot be had."""
        if settings.health_port == PORT_OFF:
            return
        host, port = settings.health_host, settings.health_port
        try:
            self._server = await asyncio.start_server(self._answer, host, port)
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror or error})"
            message = (
                f"the health port {host}:{port} {why}: set telemetry.health_port to another one, "
                "0 for any free port, or -1 for none."
            )
            raise Permanent(message, slug="health-port") from error
        bound_host, bound_port = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://[{bound_host}]:{bound_port}" if ":" in bound_host else f"http://{bound_host}:{bound_port}"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(head))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # Whoever asks badly or leaves gets no answer; nothing else suffers from it.
        finally:
            writer.close()

    def _response(self, head: bytes) -> bytes:
        status, kind, body = self._content(head.split(b"\r\n", 1)[0].decode("latin-1"))
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def _content(self, request_line: str) -> tuple[HTTPStatus, str, bytes]:
        method, _, rest = request_line.partition(" ")
        path = rest.split(" ")[0].split("?")[0]
        if method != "GET":
            return HTTPStatus.METHOD_NOT_ALLOWED, _JSON, b'{"status":"only GET is answered here"}'
        if path == "/health":
            return HTTPStatus.OK, _JSON, _json({"status": "ok", "service": self._service})
        if path == "/ready":
            unmet = self.unmet()
            status = HTTPStatus.SERVICE_UNAVAILABLE if unmet else HTTPStatus.OK
            return status, _JSON, _json({"status": "not ready" if unmet else "ready", "unmet": unmet})
        if path == "/metrics":
            from infra import metrics  # prometheus_client is slow to import and often never asked.

            return HTTPStatus.OK, metrics.CONTENT_TYPE, metrics.exposition()
        return HTTPStatus.NOT_FOUND, _JSON, b'{"status":"not found: ask for /health, /ready or /metrics"}'


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
