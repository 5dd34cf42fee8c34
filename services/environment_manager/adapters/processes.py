"""Processes under a shim (``services.environment_manager.shim``), asynchronously.

Everything that matters is in the environment's files: whoever comes later, after a restart, finds the calls, their
output and how they ended, with or without the shim. The socket only starts, interrupts, and says at once that a call
ended. Output is read from its file, every few milliseconds at first and every 20 to 50 later.

Where a shim is gone without having been closed, what it may have left is found by the marker in its environment
variables and ended before anything else is started: ``ready``, ``wait``, ``interrupt`` and ``close`` all see to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import services
from events.errors import Permanent, Transient
from infra.redaction import Redactor
from services.environment_manager import shim
from services.environment_manager.ports import Exit, Limits, OnOutput
from services.environment_manager.shim.process_tree import Process, descendants, processes, send_signal

ANSWER_SECONDS = 10.0
START_SECONDS = 15.0
# How long the keepers of a shim that was killed may take to end their trees (their own grace is 1 s).
KEEPER_PATIENCE_SECONDS = 4.0
# A shim that was killed keeps its lock for a moment longer than its connections.
DYING_SECONDS = 0.5
# A process that waits for its disk cannot be killed.
UNENDABLE_SECONDS = 10.0
READ_BYTES = 131_072
FIRST_POLL_SECONDS = 0.002
BUSY_POLL_SECONDS = 0.02
IDLE_POLL_SECONDS = 0.05

_CALL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}\Z")
_START = (
    "import sys; sys.path.append(sys.argv.pop(1));from services.environment_manager.shim.server import main; main()"
)


class Containers(Protocol):
    """What starts and removes the containers of those environments that live in one (``adapters.sandboxes``)."""

    inside: Path

    def holds(self, environment_id: str) -> bool: ...

    def variables(self, environment_id: str, own: Mapping[str, str]) -> dict[str, str]: ...

    def admit(self, environment_id: str) -> None: ...

    async def start(self, environment_id: str) -> None: ...

    async def remove(self, environment_id: str) -> None: ...

    async def lead_outward(self, environment_id: str) -> None: ...


class ShimGone(Exception):
    """Nothing answers at the environment's socket."""


class ShimProcesses:
    """The port ``Processes``. ``directory(environment_id)`` is where an environment's files lie; its ``workspace/``
    is where processes start."""

    def __init__(
        self, directory: Callable[[str], Path], *, python: str = sys.executable, containers: Containers | None = None
    ) -> None:
        self._directory = directory
        self._python = python
        self._containers = containers
        self._starting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._sweeping: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ready(self, environment_id: str) -> None:
        async with self._starting[environment_id]:
            give_up = time.monotonic() + START_SECONDS
            while not await self._answers(environment_id):
                if time.monotonic() >= give_up:
                    message = (
                        f"The shim of {environment_id} is locked but does not answer; {shim.LOG} beside it may say why."
                    )
                    raise Transient(message)
                await self._sweep(environment_id)
                await self._spawn(environment_id)
            if (container := self._container(environment_id)) is not None:
                await container.lead_outward(environment_id)

    def inside(self, environment_id: str) -> Path:
        container = self._container(environment_id)
        return self._directory(environment_id) if container is None else container.inside

    async def start(
        self, environment_id: str, call_id: str, argv: Sequence[str], *, env: Mapping[str, str], limits: Limits
    ) -> None:
        container = self._container(environment_id)
        if container is not None:
            await asyncio.to_thread(container.admit, environment_id)
        order = {
            "op": "start",
            "call": call_id,
            "argv": list(argv),
            "env": dict(env) if container is None else container.variables(environment_id, env),
            "limits": {name: getattr(limits, name) for name in limits.__struct_fields__},
        }
        try:
            answer = await self._ask(environment_id, order)
        except ShimGone:
            await self.ready(environment_id)
            try:
                answer = await self._ask(environment_id, order)
            except ShimGone as error:
                message = f"The shim of {environment_id} ended as soon as it was started."
                raise Transient(message) from error
        if "error" in answer:
            message = f"{call_id} could not be started: {answer['error']}"
            raise Transient(message) if answer["kind"] == "flinched" else Permanent(message, slug="call-refused")

    async def wait(self, environment_id: str, call_id: str, on_output: OnOutput | None = None) -> Exit | None:
        folder = self._call(environment_id, call_id)
        with contextlib.closing(Tail(folder / "output", on_output)) as tail:
            with contextlib.suppress(ShimGone):
                async with self._connected(environment_id) as (reader, writer):
                    if (await _exchange(reader, writer, {"op": "watch", "call": call_id}))["running"]:
                        await tail.follow(reader)
            ended = read_exit(folder)
            if ended is None:
                await self._sweep(environment_id)
                ended = read_exit(folder)  # A keeper may have come to its end meanwhile.
            if ended is not None:
                await tail.drain()
            return ended

    async def output(self, environment_id: str, call_id: str, redactor: Redactor, *, limit_bytes: int) -> bytes:
        return head_and_tail(self._call(environment_id, call_id) / "output", redactor, limit_bytes)

    async def interrupt(self, environment_id: str, call_id: str) -> None:
        try:
            await self._ask(environment_id, {"op": "interrupt", "call": call_id})
        except ShimGone:
            await self._sweep(environment_id)

    async def known(self, environment_id: str) -> dict[str, bool]:
        calls = self._directory(environment_id) / shim.CALLS
        names = sorted(path.name for path in calls.iterdir()) if calls.is_dir() else []
        try:
            running = set((await self._ask(environment_id, {"op": "list"}))["running"])
        except ShimGone:
            running = set()
        return {name: name in running for name in names}

    async def close(self, environment_id: str) -> None:
        async with self._starting[environment_id]:
            with contextlib.suppress(ShimGone, Transient, TimeoutError):  # One that does not answer is killed.
                async with self._connected(environment_id) as (reader, writer):
                    await _exchange(reader, writer, {"op": "close"})
                    await asyncio.wait_for(reader.read(), ANSWER_SECONDS)
            await self._sweep(environment_id, force=True)
        self._starting.pop(environment_id, None)
        self._sweeping.pop(environment_id, None)

    def _container(self, environment_id: str) -> Containers | None:
        """What holds the environment's container, where it has one."""
        return self._containers if self._containers is not None and self._containers.holds(environment_id) else None

    def _call(self, environment_id: str, call_id: str) -> Path:
        if not _CALL_ID.match(call_id):
            message = f"{call_id!r} cannot name a call: use up to 200 letters, digits, '-', '_' and '.'."
            raise Permanent(message, slug="call-refused")
        return self._directory(environment_id) / shim.CALLS / call_id

    @contextlib.asynccontextmanager
    async def _connected(self, environment_id: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to the shim. Raises ``ShimGone``, also where the connection breaks while it is used."""
        try:
            # The address of a socket holds 107 bytes, a path may be longer.
            handle = os.open(self._directory(environment_id), os.O_PATH | os.O_DIRECTORY)
            try:
                reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{handle}/{shim.SOCKET}")
            finally:
                os.close(handle)
        except OSError as error:
            raise ShimGone from error
        try:
            yield reader, writer
        except ConnectionError as error:
            raise ShimGone from error
        finally:
            writer.close()

    async def _ask(self, environment_id: str, request: dict[str, Any]) -> dict[str, Any]:
        async with self._connected(environment_id) as (reader, writer):
            return await _exchange(reader, writer, request)

    async def _answers(self, environment_id: str) -> bool:
        with contextlib.suppress(ShimGone):
            await self._ask(environment_id, {"op": "list"})
            return True
        return False

    async def _sweep(self, environment_id: str, *, force: bool = False) -> None:
        directory = self._directory(environment_id)
        async with self._sweeping[environment_id]:
            if (container := self._container(environment_id)) is not None:
                if force or is_unlocked(directory):
                    await container.remove(environment_id)
            elif (directory / shim.LOCK).exists():
                await asyncio.to_thread(sweep, directory, force=force)

    async def _spawn(self, environment_id: str) -> None:
        directory = self._directory(environment_id).resolve()
        if not directory.is_dir():
            message = f"The environment {environment_id} has no directory {directory}: it was removed or never made."
            raise Permanent(message, slug="environment-missing")
        if (container := self._container(environment_id)) is not None:
            await container.start(environment_id)
            return
        root = str(Path(services.__file__).parent.parent)
        env = {shim.ENVIRONMENT_VARIABLE: environment_id, shim.DIRECTORY_VARIABLE: str(directory)}
        command = (self._python, "-I", "-S", "-E", "-c", _START, root, str(directory))
        log = directory / shim.LOG
        try:
            with log.open("ab") as file:
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file, env=env, cwd="/"
                )
                code = await asyncio.wait_for(process.wait(), START_SECONDS)
        except OSError as error:
            message = f"The shim of {environment_id} could not be started: {error}"
            raise Transient(message) from error
        if code not in (0, shim.LOCKED):
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            message = f"The shim of {environment_id} could not be started: {last}"
            raise Transient(message)


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: dict[str, Any]
) -> dict[str, Any]:
    """Send one request, read its one line. Raises ``ShimGone`` or, after ten seconds of silence, ``Transient``."""
    writer.write(json.dumps(request).encode() + b"\n")
    try:
        line = await asyncio.wait_for(reader.readline(), ANSWER_SECONDS)
    except TimeoutError as error:
        message = f"The shim did not answer {request['op']!r} within {ANSWER_SECONDS:g} s."
        raise Transient(message) from error
    if not line.endswith(b"\n"):
        raise ShimGone
    answer: dict[str, Any] = json.loads(line)
    return answer


class Tail:
    """Hands on what a file grows by, from its first byte, as fast as it is taken."""

    def __init__(self, path: Path, on_output: OnOutput | None) -> None:
        self._path = path
        self._on_output = on_output
        self._file: int | None = None
        self._offset = 0

    async def follow(self, reader: asyncio.StreamReader) -> None:
        """Until ``reader`` has a line or its end."""
        ended = asyncio.ensure_future(reader.readline())
        delay = FIRST_POLL_SECONDS
        try:
            while not ended.done():
                busy = await self.drain(pieces=16)
                delay = min(delay * 1.5, BUSY_POLL_SECONDS if busy else IDLE_POLL_SECONDS)
                await asyncio.wait({ended}, timeout=delay)
        finally:
            ended.cancel()

    async def drain(self, *, pieces: int = sys.maxsize) -> bool:
        """Hand on what is there; whether there was something."""
        handed = 0
        while handed < pieces and await self._hand_on():
            handed += 1
            await asyncio.sleep(0)
        return handed > 0

    async def _hand_on(self) -> bool:
        if self._on_output is None:
            return False
        if self._file is None:
            try:
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        data = os.pread(self._file, READ_BYTES, self._offset)
        if data:
            await self._on_output(self._offset, data)
            self._offset += len(data)
        return bool(data)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)


def read_exit(folder: Path) -> Exit | None:
    """How the call of this folder ended; None where that was not recorded."""
    try:
        status = json.loads((folder / "status.json").read_bytes())
    except FileNotFoundError:
        return None
    return Exit(**{name: status[name] for name in Exit.__struct_fields__})


def head_and_tail(path: Path, redactor: Redactor, limit_bytes: int) -> bytes:
    """The file redacted, or as much of its head and its tail as fits, cut between lines where there are any."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return b""
    with file:
        size = file.seek(0, os.SEEK_END)
        if size <= limit_bytes:
            return _redacted(file, 0, size, redactor)
        half = max((limit_bytes - 80) // 2, 0)
        head = _redacted(file, 0, half, redactor)
        tail = _redacted(file, size - half, size, redactor)
    head = head[: head.rfind(b"\n") + 1] or head
    tail = tail[tail.find(b"\n") + 1 :] or tail
    return head + b"\n[... %d bytes left out ...]\n" % (size - len(head) - len(tail)) + tail


def _redacted(file: BinaryIO, begin: int, end: int, redactor: Redactor) -> bytes:
    """The bytes ``begin`` to ``end`` as they are in the file redacted as a whole: a secret may lie across either."""
    first = max(begin - redactor.reach_bytes, 0)
    file.seek(first)
    return redactor.redact(file.read(end + redactor.reach_bytes - first))[begin - first : end - first]


def sweep(directory: Path, *, force: bool = False) -> None:
    """End every process of an environment whose shim is gone; does nothing while a shim holds the lock.

    Its keepers are ending their trees by themselves and know them best; whoever is left after that is killed. With
    ``force`` a living shim is given a second, then it is killed too. Blocks for up to four seconds; raises
    ``Transient`` where the kernel does not let a process go.
    """
    lock = os.open(directory / shim.LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        if not _taken(lock) and not force:
            return
        patience = time.monotonic() + (1.0 if force else KEEPER_PATIENCE_SECONDS)
        while found := _marked(directory):
            if time.monotonic() >= patience or not any(supervises for _, supervises in found):
                for process, _ in found:
                    send_signal(process, signal.SIGKILL)
            if time.monotonic() >= patience + UNENDABLE_SECONDS:
                message = f"Processes of {directory} cannot be ended: {sorted(process[0] for process, _ in found)}."
                raise Transient(message)
            time.sleep(0.01)
    finally:
        os.close(lock)


def _taken(lock: int) -> bool:
    """Whether no shim holds the lock by now: then none starts until it is closed."""
    give_up = time.monotonic() + DYING_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                return False
        else:
            return True
        time.sleep(0.005)


def is_unlocked(directory: Path) -> bool:
    """Whether no shim holds the directory's lock."""
    try:
        lock = os.open(directory / shim.LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _marked(directory: Path) -> list[tuple[Process, bool]]:
    """The processes that carry the directory's marker, and all below them; and whether each is a shim or a keeper."""
    marker = f"{shim.DIRECTORY_VARIABLE}={directory.resolve()}".encode()
    of_call = f"{shim.CALL_VARIABLE}=".encode()
    found: dict[Process, bool] = {}
    for pid, (_, started) in processes().items():
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue  # Gone, or another user's.
        if marker in variables:
            found[pid, started] = not any(variable.startswith(of_call) for variable in variables)
    for process in descendants([pid for pid, _ in found]):
        found.setdefault(process, False)
    return list(found.items())
