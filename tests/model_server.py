"""A real HTTP server that plays a model: Anthropic's Messages API and OpenAI's chat completions, from a script.

``POST /v1/messages`` and ``POST /v1/chat/completions`` answer with the same turns, chosen by how many answers the
conversation in the request holds already, so that any number of runs can use one server at the same time. Requests
are checked at least as strictly as the real ones check them (``tests.model_protocols``). A turn may carry faults:
each is served once, in order, before the turn itself is.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from tests.model_protocols import PROTOCOLS, Problem, Protocol

KEY = "test-key"
MODEL = "test-model"

Json = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """``arguments`` given as text are sent as they are, which only OpenAI's protocol can carry if they are broken.
    ``id`` is the provider's; without one it is made unique."""

    tool: str
    arguments: Json | str = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True)
class Fault:
    """What is answered in a turn's place: a status with a body, nothing at all (``drop``), or the turn, but late."""

    status: int = 200
    body: Json | str = ""
    headers: tuple[tuple[str, str], ...] = ()
    drop: bool = False
    delay_seconds: float = 0.0


@dataclass(frozen=True)
class Turn:
    """An answer. One with neither text nor calls is not shown again, and so would be played twice."""

    text: str = ""
    calls: tuple[Call, ...] = ()
    stop_reason: str = ""
    input_tokens: int = 100
    cached_tokens: int = 40
    cache_write_tokens: int = 20
    output_tokens: int = 10
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Recorded:
    """A request as it came. ``problem`` is why it was refused, if it was."""

    path: str
    headers: dict[str, str]
    body: Json
    problem: str = ""


def _error(type: str, message: str, code: str | None = None) -> Json:
    """An error body in which either protocol finds its own fields."""
    error: Json = {"type": type, "message": message, "param": None, "code": code}
    return {"type": "error", "error": error, "request_id": "req_test"}


def rate_limited(retry_after: str | None = "1") -> Fault:
    headers = () if retry_after is None else (("retry-after", retry_after),)
    return Fault(429, _error("rate_limit_error", "too many requests", "rate_limit_exceeded"), headers)


def overloaded() -> Fault:
    return Fault(529, _error("overloaded_error", "Overloaded"))


def server_error() -> Fault:
    return Fault(500, _error("api_error", "Internal server error"))


def spend_limit_reached() -> Fault:
    """Anthropic's: status 429 without retry-after, told apart by the code in the details only."""
    body = _error("rate_limit_error", "The organization reached its monthly spend limit.")
    body["error"]["details"] = {"error_code": "enforced_spend_limit_reached"}
    return Fault(429, body)


def insufficient_quota() -> Fault:
    """OpenAI's: status 429, told apart by type and code."""
    return Fault(429, _error("insufficient_quota", "You exceeded your current quota.", "insufficient_quota"))


def dropped() -> Fault:
    return Fault(drop=True)


def slow(seconds: float) -> Fault:
    return Fault(delay_seconds=seconds)


class ModelServer:
    """Use it as a context manager. ``url`` is its address; OpenAI's protocol lies at ``url + "/v1"``.

    ``turns`` is the script of every conversation that ``add`` gave no script of its own.
    """

    def __init__(self, turns: Sequence[Turn] = (), *, key: str = KEY, model: str = MODEL) -> None:
        self.requests: list[Recorded] = []
        self.key = key
        self.model = model
        self._scripts: list[tuple[str, Sequence[Turn]]] = [("", turns)]
        self._served: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self._answer))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, when: str, turns: Sequence[Turn]) -> None:
        """Play ``turns`` in conversations whose first message from the user contains ``when``."""
        self._scripts.insert(0, (when, turns))

    def __enter__(self) -> ModelServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: _Handler) -> None:
        raw = request.rfile.read(int(request.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in request.headers.items()}
        protocol = PROTOCOLS.get(request.path)
        if protocol is None:
            request.send(404, json.dumps({"detail": "Not Found"}))
            return
        body: Json = {}
        try:
            try:
                body = json.loads(raw)
            except ValueError as error:
                raise Problem(400, "invalid_request_error", f"the body is no JSON: {error}") from None
            protocol.check(headers, body, key=self.key, model=self.model)
        except Problem as problem:
            self.requests.append(Recorded(request.path, headers, body, str(problem)))
            request.send(problem.status, json.dumps(protocol.error(problem)))
            return
        self.requests.append(Recorded(request.path, headers, body))
        self._play(request, protocol, body)

    def _play(self, request: _Handler, protocol: Protocol, body: Json) -> None:
        first = protocol.first_text(body)
        when, turns = next(script for script in self._scripts if script[0] in first)
        number = protocol.answers(body)
        if number >= len(turns):
            problem = Problem(
                400, "invalid_request_error", f"the script has {len(turns)} turns, asked for {number + 1}"
            )
            request.send(400, json.dumps(protocol.error(problem)))
            return
        turn = turns[number]
        fault = self._next_fault(when, number, turn)
        if fault is not None:
            self._stopping.wait(fault.delay_seconds)
            if fault.drop:
                request.drop()
                return
            if fault.status != 200 or fault.body:
                text = fault.body if isinstance(fault.body, str) else json.dumps(fault.body)
                request.send(fault.status, text, fault.headers)
                return
        request.send(200, json.dumps(protocol.answer(turn, number, self.model)))

    def _next_fault(self, when: str, number: int, turn: Turn) -> Fault | None:
        with self._lock:
            served = self._served.get((when, number), 0)
            self._served[when, number] = served + 1
        return turn.faults[served] if served < len(turn.faults) else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1_024

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that ended, by a fault or by an impatient client, is no news; anything else is printed."""
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    answer: Callable[[_Handler], None]

    def do_POST(self) -> None:
        type(self).answer(self)

    def send(self, status: int, text: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in (("content-type", "application/json"), ("content-length", str(len(data))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def drop(self) -> None:
        """End the connection with a reset, without an answer."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Requests are recorded, not printed."""


def _handler(answer: Callable[[_Handler], None]) -> type[_Handler]:
    return type("Handler", (_Handler,), {"answer": staticmethod(answer)})
