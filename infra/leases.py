"""The leases that this process holds, on disk, so that its successor can give them back at once.

A process that dies in the open leaves its commands unsettled, and they would wait out their lease. Here each command
in flight has a small file with its token, in a directory of the process's own that it keeps locked. A lock dies with
its process, so a successor knows which directories are of the dead. Nothing is synced: this outlives processes only.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import time
import uuid
from pathlib import Path

LOCK = "lock"


class LeaseFiles:
    def __init__(self, directory: Path, lease_seconds: float) -> None:
        self._directory = directory
        self._lease_seconds = lease_seconds
        self._own = directory / uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._files: dict[str, Path] = {}
        self._lock = -1

    def open(self) -> list[str]:
        """Begin to keep leases; answer the tokens that dead predecessors left and whose time is not over."""
        self._directory.mkdir(parents=True, exist_ok=True)
        places = [place for place in self._directory.iterdir() if not place.name.startswith(".")]
        left = [token for place in places for token in self._take_over(place)]
        # Locked before it has its name: a successor that starts now must not take it for a dead one's.
        unnamed = self._own.with_name(f".{self._own.name}")
        unnamed.mkdir()
        self._lock = os.open(unnamed / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unnamed.rename(self._own)
        return left

    def keep(self, token: str) -> None:
        file = self._own / f"{next(self._numbers)}.lease"
        file.write_text(token, encoding="utf-8")
        self._files[token] = file

    def extend(self, token: str) -> None:
        """The lease begins anew: its file's time says since when."""
        file = self._files.get(token)
        if file is not None:
            os.utime(file)

    def drop(self, token: str) -> None:
        file = self._files.pop(token, None)
        if file is not None:
            file.unlink(missing_ok=True)

    def close(self) -> None:
        if self._lock >= 0:
            shutil.rmtree(self._own, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    def _take_over(self, place: Path) -> list[str]:
        """The tokens of a dead process, whose directory is then removed; none of a living one."""
        try:
            lock = os.open(place / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            return []  # Another successor was faster.
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            tokens = [token for file in place.glob("*.lease") if (token := self._live_token(file))]
            shutil.rmtree(place, ignore_errors=True)
        except BlockingIOError:
            return []
        else:
            return tokens
        finally:
            os.close(lock)

    def _live_token(self, file: Path) -> str:
        """The token, or nothing where the lease lapsed: then somebody else may hold the command by now."""
        try:
            fresh = time.time() - file.stat().st_mtime < self._lease_seconds
            return file.read_text(encoding="utf-8") if fresh else ""
        except OSError:
            return ""
