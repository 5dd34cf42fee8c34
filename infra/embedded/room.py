"""Starts nats-server anew when there is room again on a disk that had none.

Once a write of a stream has failed, nats-server refuses every further one of that stream, also when there is room
again, until it is started anew. It says so itself (``NatsServer.write_error``). Services wait meanwhile, as they do
while it is away, and nothing that was acknowledged is lost.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from infra.embedded.nats_server import NatsServer
from infra.embedded.supervisor import CannotWrite, Report

LOOK_SECONDS = 2.0
# With less it would soon stand where it stood.
ROOM_BYTES = 50_000_000


class RoomWatch(threading.Thread):
    """``restart`` starts the server anew. That it cannot write is told to ``report`` once each time."""

    def __init__(
        self, server: NatsServer, directory: Path, restart: Callable[[], None], report: Callable[[Report], None]
    ) -> None:
        super().__init__(name="room", daemon=True)
        self._server = server
        self._directory = directory
        self._restart = restart
        self._report = report
        self._stopping = threading.Event()

    def run(self) -> None:
        told = False
        while not self._stopping.wait(LOOK_SECONDS):
            error = self._server.write_error()
            if error and not told:
                self._report(CannotWrite(self._server.name, error))
            told = bool(error)
            if error and shutil.disk_usage(self._directory).free >= ROOM_BYTES:
                self._restart()
                told = False

    def stop(self) -> None:
        """Look no more; returns when a restart that has begun is over."""
        self._stopping.set()
        if self.is_alive():
            self.join()
