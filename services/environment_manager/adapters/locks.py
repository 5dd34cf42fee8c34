"""Locks that hold over processes: ``flock`` on a file, one per repository and one per environment.

The kernel lets go when the last descriptor is closed, so a killed holder leaves nothing behind; and a git process
that was handed the descriptor keeps the lock until it too has ended, even where its parent was killed. Lock files
may be deleted by their holder. The order is environment before repository; nothing takes two of a kind.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from events.errors import Transient

TIMEOUT_SECONDS = 300.0
POLL_SECONDS = 0.002
POLL_LIMIT_SECONDS = 0.1


class Locks:
    def __init__(self) -> None:
        # Within this process a queue, so that only one of us polls the file.
        self._queues: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, path: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> AsyncIterator[int]:
        """Hold the lock ``path``; gives its descriptor. Raises ``Transient`` where another process keeps it."""
        queue = self._queues.setdefault(path, asyncio.Lock())
        async with queue:
            descriptor = await _acquire(path, timeout_seconds)
            try:
                yield descriptor
            finally:
                os.close(descriptor)


async def _acquire(path: Path, timeout_seconds: float) -> int:
    deadline = time.monotonic() + timeout_seconds
    pause = POLL_SECONDS
    while (descriptor := _try(path)) is None:
        if time.monotonic() > deadline:
            message = f"another process has held {path} for {timeout_seconds:g} seconds"
            raise Transient(message, delay_seconds=POLL_LIMIT_SECONDS)
        await asyncio.sleep(pause)
        pause = min(pause * 2, POLL_LIMIT_SECONDS)
    return descriptor


def _try(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its last holder may have deleted the file meanwhile: then this lock is on nothing that others see.
        if path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
