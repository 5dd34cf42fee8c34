"""What a power failure can take, in words."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from infra.durability import find, stated
from infra.settings import Nats


@pytest.mark.parametrize(
    ("nats", "window", "known_by", "said"),
    [
        (Nats(sync="always"), 0.0, "setting", "power loss takes nothing"),
        (Nats(sync="interval"), 120.0, "setting", "the last 120 s"),
        (Nats(sync="interval", replicas=3), 120.0, "setting", "a majority of 3 servers at once"),
        (Nats(), None, "nobody", "unknown"),
    ],
)
def test_settings_are_said_in_words(nats: Nats, window: float | None, known_by: str, said: str) -> None:
    """Where nobody knows, that is said and nothing else."""
    found = stated(nats)
    assert (found.loss_window_seconds, found.known_by) == (window, known_by)
    assert said in found.sentence


class Monitor(BaseHTTPRequestHandler):
    config: dict[str, object] = {}

    def do_GET(self) -> None:
        body = json.dumps({"jetstream": {"config": self.config}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing is said."""


@pytest.fixture
def monitor_url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Monitor)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


async def test_server_is_believed_before_the_settings(monitor_url: str) -> None:
    """An operator may be wrong; the server is not."""
    Monitor.config = {"sync_interval": 120_000_000_000, "sync_always": True}
    found = await find(Nats(sync="interval", monitor_url=monitor_url))
    assert (found.level, found.loss_window_seconds, found.known_by) == ("always", 0.0, "server")
    Monitor.config = {"sync_interval": 30_000_000_000}
    found = await find(Nats(sync="always", monitor_url=f"{monitor_url}/"))
    assert (found.level, found.loss_window_seconds, found.known_by) == ("interval", 30.0, "server")


async def test_server_that_cannot_be_asked_leaves_it_to_the_settings() -> None:
    """It says by whom it is known."""
    found = await find(Nats(sync="always", monitor_url="http://127.0.0.1:1"))
    assert (found.level, found.known_by) == ("always", "setting")
