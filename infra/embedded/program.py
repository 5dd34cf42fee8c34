"""A program that runs as a child process: started, found ready, stopped, leaving nothing of its group behind.

The child is never waited for with a reaping call until everything of its process group has been told to end: as long
as it is not reaped, neither its pid nor its group's id can belong to anyone else, so no signal goes astray. Children
lead sessions of their own, so that Ctrl-C in the terminal reaches only us and we choose the order in which they end.
What leaves the group (a shim in a session of its own) is not touched: it is meant to outlive its service.

Linux only (``waitid`` with ``WNOWAIT``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec

from events.errors import CairnError

LOG_LIMIT_BYTES = 10 * 1024 * 1024
POLL_SECONDS = 0.02


class StartFailed(CairnError):
    """A program ended or stayed unready at its start; the message holds the last lines that it wrote."""


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How the next process of a program is started; ``environment`` stands over our own."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = {}
    directory: Path | None = None


class Program(ABC):
    """One program and its present process. ``launch`` is asked anew before every start.

    Safe to use from several threads. ``stop_signal`` asks it to end; after ``stop_seconds`` its group is killed.
    """

    stop_signal = signal.SIGTERM
    stop_seconds = 10.0

    def __init__(self, name: str, log_path: Path) -> None:
        self.name = name
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._reaping = threading.Lock()

    @abstractmethod
    def launch(self) -> Launch:
        """Make everything ready for a start and answer how to start."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it serves now; answers within a second or so."""

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def spawn(self) -> int:
        """Start a process and answer its pid, without waiting until it is ready."""
        launch = self.launch()
        rotate(self.log_path)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                launch.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **launch.environment},
                cwd=launch.directory,
                start_new_session=True,
            )
        return self._process.pid

    def start(self, timeout_seconds: float = 30.0) -> Self:
        """Start and wait until ready. Raises ``StartFailed``."""
        self.spawn()
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready():
            if self.has_exited() or time.monotonic() > deadline:
                code = self.reap()
                message = f"{self.name} did not start (exit code {code}). {self.log_path} ends with:\n{self.log_tail()}"
                raise StartFailed(message)
            time.sleep(POLL_SECONDS)
        return self

    def has_exited(self) -> bool:
        """Whether no process of this program runs (it may not be reaped yet)."""
        process = self._process
        if process is None or process.returncode is not None:
            return True
        try:
            return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True

    def wait_for_exit(self) -> None:
        """Block until the present process has ended."""
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    def signal(self, number: int) -> None:
        """Send a signal to the process, if there is one."""
        with self._reaping:
            process = self._process
            if process is not None and process.returncode is None:
                os.kill(process.pid, number)

    def reap(self) -> int | None:
        """End what is left of the process's group and collect its exit code (negative: the signal)."""
        with self._reaping:
            process = self._process
            if process is None:
                return None
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return process.returncode

    def stop(self) -> int | None:
        """Ask it to end, wait, insist. Answers its exit code; None where it never ran."""
        self.signal(self.stop_signal)
        deadline = time.monotonic() + self.stop_seconds
        while not self.has_exited() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return self.reap()

    def kill(self) -> None:
        """SIGKILL, as a crash would be."""
        self.reap()

    def log_tail(self, lines: int = 5) -> str:
        """The last lines of its log."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def rotate(path: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Put a log that has grown over the limit aside as ``NAME.1``, in place of the one put aside before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > limit_bytes:
        path.replace(path.with_name(path.name + ".1"))
