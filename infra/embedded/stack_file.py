"""``<home>/stack.json``: where a running stack is found, and which processes belong to it.

The lock on ``<home>/lock`` says whether the stack runs (the kernel lets go of it whatever way its holder ends); the
file says the rest. Processes are named by pid and time of start, so that a number used again is not taken for ours.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

HOME_NAME = ".cairn"
FILE_NAME = "stack.json"
LOCK_NAME = "lock"


class StackProcess(msgspec.Struct, frozen=True):
    """``started`` is the process's time of creation in seconds since 1970, as psutil tells it."""

    pid: int
    started: float


class StackFile(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    pid: int
    started: float
    nats_url: str
    postgres_url: str
    processes: dict[str, StackProcess] = {}


def read(home: Path) -> StackFile | None:
    try:
        return msgspec.json.decode((home / FILE_NAME).read_bytes(), type=StackFile)
    except (OSError, msgspec.MsgspecError):
        return None


def write(home: Path, stack: StackFile) -> None:
    """Replace the file in one step; only its owner can read it, for it holds the password of NATS."""
    fresh = home / f".{FILE_NAME}"
    fresh.touch(mode=0o600)
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(stack)))
    fresh.replace(home / FILE_NAME)


def try_lock(home: Path) -> int | None:
    """Take the lock of a stack's home; answers the descriptor that holds it, None where another process does."""
    descriptor = os.open(home / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_running(home: Path) -> bool:
    """Whether a stack of this home runs now."""
    if not home.is_dir():
        return False
    descriptor = try_lock(home)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def find_home(start: Path) -> Path | None:
    """The nearest ``.cairn`` with a stack file, from ``start`` upwards."""
    for directory in (start, *start.parents):
        if (directory / HOME_NAME / FILE_NAME).is_file():
            return directory / HOME_NAME
    return None
