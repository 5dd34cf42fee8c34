"""A gateway that answers what a test tells it to, over real HTTP, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

KEY = "cairn_test"


class Request(msgspec.Struct):
    method: str
    path: str
    query: dict[str, str]
    body: Any
    last_event_id: str


class Answer(msgspec.Struct):
    """``body`` goes as JSON, or as it is where it is bytes. ``cut`` drops the connection after it, ``hold_seconds``
    keeps it open without a word for so long."""

    body: Any = None
    status: int = 200
    kind: str = "application/json"
    cut: bool = False
    hold_seconds: float = 0.0


def problem(status: int, slug: str, detail: str) -> Answer:
    body = {"type": f"urn:cairn:problem:{slug}", "title": slug, "status": status, "detail": detail, "slug": slug}
    return Answer(body, status, "application/problem+json")


def page(*rows: Any, following: Any = None) -> Answer:
    return Answer({"items": list(rows), "next": following})


def stream(*frames: str, cut: bool = False) -> Answer:
    return Answer("".join(frame + "\n\n" for frame in frames).encode(), 200, "text/event-stream", cut)


def decision(sequence: int, entity: str, id: str, *events: dict[str, Any]) -> dict[str, Any]:
    return {
        "sequence": sequence,
        "id": f"decision-{sequence}",
        "entity": entity,
        "entity_id": id,
        "time": "2026-05-01T12:00:00Z",
        "actor": "",
        "correlation": "",
        "causation": "",
        "trace": "",
        "events": list(events),
    }


def frame(id: int, data: Any, name: str = "") -> str:
    return f"id: {id}\n" + (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}"


class StubGateway:
    """``answers`` maps ``"GET /path"`` (below /api/v1) to answers given in turn; the last one is given for ever."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[Request] = []

    def on(self, what: str, *answers: Answer) -> None:
        self.answers[what] = list(answers)

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        left = self.answers.get(f"{request.method} {request.path}")
        if not left:
            return problem(404, "not-found", f"There is nothing at {request.path}.")
        return left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def stub_gateway() -> Iterator[StubGateway]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(lambda: stub))
    stub = StubGateway(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(stub: Callable[[], StubGateway]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer("GET", None)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self._answer("POST", json.loads(self.rfile.read(length)) if length else None)

        def _answer(self, method: str, body: Any) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            path = parts.path.removeprefix("/api/v1")
            if self.headers.get("Authorization") != f"Bearer {KEY}":
                answer = problem(401, "unauthorized", "This API key is not known here.")
            else:
                answer = stub().answer(Request(method, path, query, body, self.headers.get("Last-Event-ID", "")))
            data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            # A connection that is cut, or goes on, promises more than it sends.
            more = 100 if answer.cut or answer.hold_seconds else 0
            self.send_header("Content-Length", str(len(data) + more))
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()
            time.sleep(answer.hold_seconds)
            if more:
                self.close_connection = True

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing on standard error."""

    return Handler
