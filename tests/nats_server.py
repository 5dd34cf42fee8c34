"""A real nats-server of a test's own: started, killed and started again on the same port and store."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from infra.embedded.ports import hold_port, port_of

START_SECONDS = 30.0
# Below the ports that the system gives away by itself: one of those may be taken before its server listens, or a client
# that finds nobody there may get it as its own and meet itself.
PORTS = range(10_000, 32_000)


def free_port() -> int:
    """A port on which nobody listens, and which nobody gets by chance."""
    while True:
        port = random.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            return port


class NatsServer:
    def __init__(self, directory: Path, *, sync_always: bool = False, settings: str = "") -> None:
        # Nobody else is given it, also while the server is away.
        self._held = hold_port()
        self.port = port_of(self._held)
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
