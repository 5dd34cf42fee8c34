"""A shim to try things on, and what shows that it left nothing behind."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

from services.environment_manager.adapters.processes import ShimProcesses
from services.environment_manager.ports import Exit, Limits
from services.environment_manager.shim import DIRECTORY_VARIABLE
from services.environment_manager.shim.process_tree import descendants, processes

ENVIRONMENT = "shop-1-development"
PATH = {"PATH": os.environ["PATH"]}
REPOSITORY = Path(__file__).parents[2]
# In seconds, and a number that no other process of this machine has in its command.
LONG = str(900_000_000 + os.getpid())


def left(directory: Path) -> list[int]:
    """Every live process that carries the directory's marker or descends from one that does."""
    marker = f"{DIRECTORY_VARIABLE}={directory.resolve()}".encode()
    found = []
    for pid in processes():
        try:
            if marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
        except OSError:
            continue
    return sorted({*found, *(pid for pid, _ in descendants(found))})


def shim_pid(directory: Path) -> int:
    """The shim is the marked process that no marked process started."""
    marked = set(left(directory))
    alive = processes()
    (pid,) = [pid for pid in marked if pid in alive and alive[pid][0] not in marked]
    return pid


def processes_named(text: str) -> list[int]:
    found = []
    for pid in processes():
        try:
            if text.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def printed_by(directory: Path, call: str) -> bytes:
    """What a call has printed so far."""
    path = directory / "calls" / call / "output"
    return path.read_bytes() if path.exists() else b""


def make(directory: Path) -> ShimProcesses:
    (directory / "workspace").mkdir(parents=True, exist_ok=True)
    return ShimProcesses(lambda _: directory)


async def checked_directory(tmp_path: Path) -> AsyncIterator[Path]:
    """An environment's directory; whatever runs in it is ended afterwards."""
    yield tmp_path
    if (tmp_path / "shim.lock").exists():
        await ShimProcesses(lambda _: tmp_path).close(ENVIRONMENT)
    assert left(tmp_path) == []


async def run(shims: ShimProcesses, call: str, *argv: str, limits: Limits | None = None) -> tuple[Exit | None, bytes]:
    await shims.start(ENVIRONMENT, call, argv, env=PATH, limits=limits or Limits(grace_seconds=2))
    return await wait(shims, call)


async def wait(shims: ShimProcesses, call: str) -> tuple[Exit | None, bytes]:
    """How a call ended, and what it printed from its first byte on."""
    printed = bytearray()

    async def on_output(offset: int, data: bytes) -> None:
        assert len(printed) == offset, "a piece is missing, or came twice"
        printed.extend(data)

    return await shims.wait(ENVIRONMENT, call, on_output), bytes(printed)
