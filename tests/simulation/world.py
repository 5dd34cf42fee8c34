"""What outlives the processes of Cairn: hosts with workspaces and programs, one store of commits, and the remote.

``HostProcesses`` and, in ``workspaces``, ``HostWorkspaces`` are in-memory twins of shims and of git. What they keep
lies on the ``Host``: a new environment-manager finds it as the last one left it. Every use goes through the process
that asks, so that it can die before, in the middle or after. Programs run by themselves and count what they did outside
of any workspace.

A program's command line is ``work JSON`` (see ``Errand``), ``check`` (exit code 0 where the file ``verdict`` says
good), or the name of a declared tool. Whatever a program or file tool does leaves marks in the file ``marks``, by
which a checker can tell how often a call had its effect on a workspace: ``begin`` and ``end`` of each execution.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from events.errors import Permanent
from events.tools import Arguments, ListFiles, ReadFile, WriteFile
from infra.redaction import Redactor
from services.environment_manager.ports import Exit, Limits, OnOutput
from services.environment_manager.tools import ToolRefused
from tests.simulation.network import Process

Files = dict[str, str]

REPOSITORY = "/repositories/shop"
BASE_BRANCH = "main"
MARKS = "marks"
VERDICT = "verdict"
BY_HAND = "by-hand"


class Errand(msgspec.Struct, frozen=True):
    """What a shell command does: it takes its time, may write a file, and ends with a code."""

    name: str
    seconds: float = 0.2
    exit_code: int = 0
    verdict: str = ""

    @property
    def command(self) -> str:
        return f"work {msgspec.json.encode(self).decode()}"


def tree_of(files: Files) -> str:
    return "t" + hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:12]


@dataclass
class Workspace:
    """A working tree. ``last`` is its last checkpoint; ``changed_by_hand`` says that nobody has looked since."""

    base_commit: str
    first: str
    last: str
    files: Files
    changed_by_hand: bool = False


@dataclass
class Program:
    """A process under a shim. ``running`` ends with its ``exit``, or without one where the host lost its power."""

    environment_id: str
    id: str
    call_id: str
    running: bool = True
    exit: Exit | None = None
    output: bytes = b""
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Host:
    """A machine's disk and what runs on it beside Cairn."""

    def __init__(self, name: str, commits: set[str] | None = None) -> None:
        self.name = name
        self.workspaces: dict[str, Workspace] = {}
        self.programs: dict[str, dict[str, Program]] = {}
        self.commits: set[str] = commits if commits is not None else set()
        self.refs: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self.leases: dict[str, dict[str, Any]] = {}

    def lose_power(self) -> None:
        """Nothing that runs goes on, and nobody wrote down how it ended. Files stay as they are."""
        for programs in self.programs.values():
            for program in programs.values():
                _stop(program, None)


class World:
    """Everything beside Cairn. ``effects`` counts what calls did outside of their workspaces, ``executions`` how often
    each was begun; ``finished_before`` are the calls that had their end in the log when they were begun once more."""

    def __init__(
        self,
        hosts: Sequence[str],
        has_ended: Callable[[str, str], bool],
        home: Callable[[str], str],
        *,
        shared: bool,
    ) -> None:
        self.hosts = {name: Host(name) for name in hosts}
        if shared:  # Then a commit that one host has, all have.
            self.hosts = {name: Host(name, self.hosts[hosts[0]].commits) for name in hosts}
        self.commits: dict[str, Files] = {}
        self.parents: dict[str, str] = {}
        self.branches: dict[str, str] = {}
        self.executions: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.finished_before: list[str] = []
        self._has_ended = has_ended
        self._home = home
        self.branches[BASE_BRANCH] = self.commit({"readme": "a shop", VERDICT: "bad"}, "")

    def commit(self, files: Files, parent: str) -> str:
        id = "c" + hashlib.sha256(f"{parent} {tree_of(files)}".encode()).hexdigest()[:12]
        self.commits[id] = dict(files)
        self.parents[id] = parent
        return id

    def history(self, commit: str) -> list[str]:
        """The commit and all before it, the newest first."""
        found = []
        while commit:
            found.append(commit)
            commit = self.parents[commit]
        return found

    def begun(self, host: str, environment_id: str, call_id: str) -> None:
        """A call is executed, for the first time or once more."""
        if host != self._home(environment_id):
            return  # It was moved away while this host stood still: what happens here is nobody's any more.
        self.executions[call_id] += 1
        if self._has_ended(environment_id, call_id):
            self.finished_before.append(call_id)


class Place:
    """An environment's folder as a path that leads nowhere: what is written under it is kept by the host."""

    def __init__(self, host: Host, *parts: str) -> None:
        self._host = host
        self.parts = parts
        self.name = parts[-1]

    def __truediv__(self, part: str) -> Place:
        return Place(self._host, *self.parts, part)

    def __str__(self) -> str:
        return "/".join(("", *self.parts))

    def exists(self) -> bool:
        id = self.parts[0]
        return id in self._host.workspaces or id in self._host.programs

    def mkdir(self, **how: Any) -> None:
        """Folders are not kept."""

    def write_text(self, text: str, encoding: str) -> None:
        self._host.texts[str(self)] = text


class HostProcesses:
    """``services.environment_manager.ports.Processes`` for one life of an environment-manager."""

    def __init__(self, world: World, host: Host, process: Process) -> None:
        self._world = world
        self._host = host
        self._process = process

    async def ready(self, environment_id: str) -> None:
        async def effect() -> None:
            if environment_id not in self._host.workspaces:
                message = f"environment {environment_id} has no directory"
                raise Permanent(message, slug="environment-missing")
            self._host.programs.setdefault(environment_id, {})

        await self._process.call(("ready", environment_id), effect, certain=True)

    async def start(
        self, environment_id: str, call_id: str, argv: Sequence[str], *, env: Mapping[str, str], limits: Limits
    ) -> None:
        async def effect() -> None:
            programs = self._host.programs.setdefault(environment_id, {})
            if call_id not in programs:
                program = Program(environment_id, call_id, call_id.partition(".")[0])
                programs[call_id] = program
                _run(self._world, self._host, program, argv)

        await self._process.call(("start", environment_id, call_id), effect, certain=True)

    async def wait(self, environment_id: str, call_id: str, on_output: OnOutput | None = None) -> Exit | None:
        program = self._program(environment_id, call_id)
        if program is None:
            await self._process.awake()
            return None
        await program.ended.wait()
        await self._process.awake()
        if on_output is not None and program.output:
            half = len(program.output) // 2
            await on_output(0, program.output[:half])
            await on_output(half, program.output[half:])
        await self._process.awake()
        return program.exit

    async def output(self, environment_id: str, call_id: str, redactor: Redactor, *, limit_bytes: int) -> bytes:
        await self._process.awake()
        program = self._program(environment_id, call_id)
        return program.output if program is not None else b""

    async def interrupt(self, environment_id: str, call_id: str) -> None:
        async def effect() -> None:
            program = self._program(environment_id, call_id)
            if program is not None:
                _stop(program, Exit(cause="interrupted", code=None, duration_ms=1, output_bytes=len(program.output)))

        await self._process.call(("interrupt", environment_id, call_id), effect, certain=True)

    def inside(self, environment_id: str) -> Path:
        return Path("/environment")

    async def known(self, environment_id: str) -> dict[str, bool]:
        async def effect() -> dict[str, bool]:
            programs = self._host.programs.get(environment_id, {})
            return {id: program.running for id, program in programs.items()}

        return await self._process.call(("known", environment_id), effect, certain=True)

    async def close(self, environment_id: str) -> None:
        async def effect() -> None:
            for program in self._host.programs.get(environment_id, {}).values():
                _stop(program, Exit(cause="interrupted", code=None, duration_ms=1, output_bytes=len(program.output)))

        await self._process.call(("close", environment_id), effect, certain=True)

    def _program(self, environment_id: str, id: str) -> Program | None:
        return self._host.programs.get(environment_id, {}).get(id)


def file_tools(world: World, host: Host, process: Process) -> Callable[[Any, Arguments], Any]:
    """``services.environment_manager.ports.FileTools``: they run in the environment-manager and die with it."""

    async def execute(workspace: Place, arguments: Arguments) -> str:
        environment_id = workspace.parts[0]

        def files() -> Files:
            found = host.workspaces.get(environment_id)
            if found is None:
                raise ToolRefused("file-not-found", "there is no workspace")
            return found.files

        async def write(path: str, text: str) -> str:
            files()[path] = text
            return f"{path} is written"

        async def read() -> str:
            return "\n".join(sorted(files()))

        if isinstance(arguments, WriteFile):
            call_id = arguments.path
            world.begun(host.name, environment_id, call_id)
            begin, end = f"begin {call_id}", f"end {call_id}"
            await process.call(("write half", call_id), lambda: write(MARKS, _marked(files(), begin)), certain=True)
            await process.call(("write", call_id), lambda: write(MARKS, _marked(files(), end)), certain=True)
            return await process.call(("write", call_id), lambda: write(f"files/{call_id}", "text"), certain=True)
        if isinstance(arguments, ReadFile | ListFiles):
            return await process.call(("read", environment_id), read, certain=True)
        raise ToolRefused("unknown-tool", f"{type(arguments).__name__} has no twin")

    return execute


def _marked(files: Files, mark: str) -> str:
    return f"{files.get(MARKS, '')}{mark}\n"


def _run(world: World, host: Host, program: Program, argv: Sequence[str]) -> None:
    """Set the timers of a program: one for its first effect, one in the middle, one for its end."""
    errand, probes = _errand(argv)
    environment_id, call_id = program.environment_id, program.call_id
    loop = asyncio.get_running_loop()
    if not probes:
        world.begun(host.name, environment_id, call_id)

    def mark(what: str) -> None:
        workspace = host.workspaces.get(environment_id)
        if workspace is not None and errand.name not in ("check", "probe") and not errand.name.startswith("external"):
            workspace.files[MARKS] = _marked(workspace.files, f"{what} {call_id}")

    def middle() -> None:
        if not probes and (errand.name.startswith("external") or errand.name == "program"):
            world.effects[call_id] += 1
        program.output += b"working\n"

    def end() -> None:
        workspace = host.workspaces.get(environment_id)
        code = errand.exit_code
        if workspace is not None:
            mark("end")
            if errand.verdict:
                workspace.files[VERDICT] = errand.verdict
            if errand.name == "check":
                code = 0 if workspace.files.get(VERDICT) == "good" else 1
        if probes:
            code = 0 if world.effects[call_id] else 1
        program.output += b"done\n"
        milliseconds = round(errand.seconds * 1000)
        _stop(program, Exit(cause="exited", code=code, duration_ms=milliseconds, output_bytes=len(program.output)))

    mark("begin")
    program.timers = [loop.call_later(errand.seconds / 2, middle), loop.call_later(errand.seconds, end)]


def _errand(argv: Sequence[str]) -> tuple[Errand, bool]:
    """What a command line stands for, and whether it only asks what happened."""
    if argv[0] == "/bin/bash":
        name, _, rest = argv[2].partition(" ")
        return (msgspec.json.decode(rest, type=Errand) if name == "work" else Errand(name="check")), False
    if argv[0] == "/bin/sh":
        return Errand(name=argv[4], seconds=0.3), argv[4] == "probe"
    return Errand(name="program", seconds=2.0, verdict="good"), False


def _stop(program: Program, exit: Exit | None) -> None:
    if program.running:
        for timer in program.timers:
            timer.cancel()
        program.running = False
        program.exit = exit
        program.ended.set()
