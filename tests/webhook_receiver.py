"""A receiver of webhooks for tests: a real server on a free port that checks signatures and answers by a script."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@dataclass(frozen=True)
class Answer:
    """``delay_seconds`` is waited before answering."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    delay_seconds: float = 0.0


@dataclass(frozen=True)
class Received:
    id: str
    timestamp: int
    host: str
    body: dict[str, Any]
    signatures: tuple[str, ...]
    raw: bytes

    def is_signed_by(self, key: bytes) -> bool:
        signed = f"{self.id}.{self.timestamp}.".encode() + self.raw
        wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return f"v1,{wanted}" in self.signatures


@dataclass
class WebhookReceiver:
    """Gives ``answers`` one after another, and 200 when they are used up."""

    url: str
    answers: list[Answer]
    received: list[Received] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.received]


@contextmanager
def webhook_receiver(*answers: Answer) -> Iterator[WebhookReceiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.received.append(
                Received(
                    id=self.headers["webhook-id"],
                    timestamp=int(self.headers["webhook-timestamp"]),
                    host=self.headers["host"],
                    body=json.loads(raw),
                    signatures=tuple(self.headers["webhook-signature"].split(" ")),
                    raw=raw,
                )
            )
            answer = receiver.answers.pop(0) if receiver.answers else Answer(200)
            time.sleep(answer.delay_seconds)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body.encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # A sender that was killed leaves a broken pipe, which is what such a test wants.

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver = WebhookReceiver(f"http://localhost:{server.server_port}/hook?team=a", list(answers))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
