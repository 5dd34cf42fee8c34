"""A real nats-server of a test's own: started, killed and started again on the same port and store."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

START_SECONDS = 10.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class NatsServer:
    def __init__(self, directory: Path, *, sync_always: bool = False, settings: str = "") -> None:
        self.port = free_port()
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        sync = "  sync_interval: always\n" if sync_always else ""
        self._config = directory / "nats.conf"
        directory.mkdir(parents=True, exist_ok=True)
        self._config.write_text(
            f'listen: 127.0.0.1:{self.port}\njetstream {{\n  store_dir: "{directory / "store"}"\n{sync}}}\n{settings}\n'
        )

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Return when it accepts connections."""
        binary = Path(sys.executable).with_name("nats-server")
        with (self._directory / "nats.log").open("ab") as log:
            self._process = subprocess.Popen([binary, "-c", self._config], stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
                if sock.recv(4) == b"INFO":
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        message = f"nats-server did not start:\n{(self._directory / 'nats.log').read_text()[-2000:]}"
        raise RuntimeError(message)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None
