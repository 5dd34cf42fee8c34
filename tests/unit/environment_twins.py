"""In-memory twins of git and of processes, as far as executing calls and keeping environments needs them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from events.envelope import CommandEnvelope
from events.environment import ENVIRONMENT, EnvironmentPrepared
from events.errors import Permanent
from events.pull_request import PULL_REQUEST
from infra.clock import SystemClock
from infra.entities import Cause, EntityStore
from infra.hosts import Hosts
from infra.memory.plumbing import Memory
from infra.redaction import Redactor
from infra.sender import Sender
from services.environment_manager import tools
from services.environment_manager.executor import Executor, Plumbing
from services.environment_manager.handlers import Handlers
from services.environment_manager.inspection import Inspector
from services.environment_manager.keeper import Keeper
from services.environment_manager.moving import Moving
from services.environment_manager.operations import OPERATIONS
from services.environment_manager.output import OutputWriter
from services.environment_manager.people import People
from services.environment_manager.ports import (
    Checkpoint,
    Comparison,
    Exit,
    Kept,
    Limits,
    OnOutput,
    Prepared,
    Systems,
)
from services.environment_manager.pull_requests import PullRequestHandlers
from services.environment_manager.room import Room
from services.environment_manager.systems import ComposedSystems

PREPARED = EnvironmentPrepared(
    task_id="shop-1",
    host="here",
    isolation="worktree",
    repository_url="/repositories/shop",
    base_branch="main",
    base_commit="b0",
    commit="c0",
    tree="t0",
    workspace="/workspace",
)


class MemoryWorkspaces:
    """``commit`` is the last checkpoint of every workspace: a test changes it where a call is to change files.
    ``tree`` is what the workspaces hold now, ``gone`` are those whose directories somebody has deleted, ``missing`` the
    checkpoints that are not there any more, ``checkpoints`` the environments that have some."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.commit = "c0"
        self.tree = "t0"
        self.restored: list[str] = []
        self.gone: set[str] = set()
        self.missing: set[str] = set()
        self.environments: list[str] = []
        self.checkpoints: list[str] = []

    async def prepare(
        self, environment_id: str, repository_url: str, *, base_branch: str, bases: Sequence[str], restore: str = ""
    ) -> Prepared:
        self.environments.append(environment_id)
        directory = self.directory(environment_id)
        return Prepared(workspace=directory, base_branch="main", base_commit="b0", commit=self.commit, tree="t0")

    async def checkpoint(self, environment_id: str, message: str) -> Checkpoint:
        return Checkpoint(self.commit, f"tree of {self.commit}")

    async def compare(self, environment_id: str, checkpoint: Checkpoint) -> Comparison:
        diff = "" if self.tree == checkpoint.tree else f"-{checkpoint.tree}\n+{self.tree}\n"
        return Comparison(tree=self.tree, head="" if self.commit in self.missing else self.commit, diff=diff)

    def stands(self, environment_id: str) -> bool:
        return environment_id in self.environments and environment_id not in self.gone

    async def kept(self) -> list[Kept]:
        return [Kept(id, "shop.git", ((f"refs/cairn/{id}/head", self.commit),)) for id in self.checkpoints]

    async def forget(self, kept: Kept) -> bool:
        self.checkpoints.remove(kept.environment_id)
        return True

    async def bundle(self, repository_url: str, commits: Sequence[str], known: Sequence[str]) -> bytes:
        return " ".join(commits).encode()

    async def vanished(self) -> list[str]:
        return sorted(self.gone)

    async def restore(self, environment_id: str, commit: str) -> None:
        if commit in self.missing:
            raise Permanent(f"{commit} is not here", slug="checkpoint-missing")
        self.restored.append(commit)

    async def remove(self, environment_id: str) -> None:
        if environment_id in self.environments:
            self.environments.remove(environment_id)

    async def existing(self) -> list[str]:
        return [id for id in self.environments if id not in self.gone]

    def directory(self, environment_id: str) -> Path:
        return self.home / environment_id


class MemoryProcesses:
    """Processes run until a test ends them (``end``), they are interrupted, or everything is ``lost``."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.env: dict[str, Mapping[str, str]] = {}
        self.interrupted: list[str] = []
        self.running: dict[str, asyncio.Future[Exit | None]] = {}
        self.ended: dict[str, Exit] = {}
        self.broken: set[str] = set()

    async def ready(self, environment_id: str) -> None:
        if environment_id in self.broken:
            raise Permanent("its shim cannot be started", slug="environment-missing")

    async def start(
        self, environment_id: str, call_id: str, argv: Sequence[str], *, env: Mapping[str, str], limits: Limits
    ) -> None:
        if call_id not in self.started:
            self.started.append(call_id)
            self.env[call_id] = env
            self.running[call_id] = asyncio.get_running_loop().create_future()

    async def wait(self, environment_id: str, call_id: str, on_output: OnOutput | None = None) -> Exit | None:
        if call_id in self.running:
            return await asyncio.shield(self.running[call_id])
        return self.ended.get(call_id)

    async def output(self, environment_id: str, call_id: str, redactor: Redactor, *, limit_bytes: int) -> bytes:
        return b""

    async def interrupt(self, environment_id: str, call_id: str) -> None:
        self.interrupted.append(call_id)
        self.end(call_id, cause="interrupted", code=None)

    def inside(self, environment_id: str) -> Path:
        return Path("/environment")

    async def known(self, environment_id: str) -> dict[str, bool]:
        return {**dict.fromkeys(self.ended, False), **dict.fromkeys(self.running, True)}

    async def close(self, environment_id: str) -> None:
        for call_id in list(self.running):
            self.end(call_id, cause="interrupted", code=None)

    def end(self, call_id: str, *, cause: str = "exited", code: int | None = 0) -> None:
        running = self.running.pop(call_id, None)
        if running is not None:
            self.ended[call_id] = Exit(cause=cause, code=code, duration_ms=1, output_bytes=0)
            running.set_result(self.ended[call_id])

    def lose(self, call_id: str) -> None:
        """The process and its shim are gone without a trace, as after a power failure."""
        self.running.pop(call_id).set_result(None)


class MemoryBus:
    """Keeps what was sent."""

    def __init__(self) -> None:
        self.sent: list[CommandEnvelope] = []

    async def send(self, service: str, target: str, envelope: CommandEnvelope) -> bool:
        self.sent.append(envelope)
        return True


class Environments:
    """An executor with its plumbing, and environment ``shop-1-development``, which stands."""

    id = "shop-1-development"

    def __init__(self, home: Path, *, id: str = "", systems: Systems | None = None, bundled: bool = False) -> None:
        self.id = id or self.id
        self.memory = Memory()
        self.bus = MemoryBus()
        self.workspaces = MemoryWorkspaces(home)
        self.processes = MemoryProcesses()
        self.clock = SystemClock()
        self.operations = dict(OPERATIONS)
        self.systems = None
        if systems is not None:
            self.systems = ComposedSystems(systems, self.memory.log, tenant="default", host="here")
            self.operations.update(self.systems.operations())
        self.plumbing = Plumbing(
            log=self.memory.log,
            environments=EntityStore(self.memory.log, ENVIRONMENT, self.clock),
            workspaces=self.workspaces,
            processes=self.processes,
            execute_file_tool=tools.execute_file_tool,
            operations=self.operations,
            content=self.memory.content,
            output=OutputWriter(self.memory.output),
            sender=Sender(self.bus, self.clock, tenant="default", name="environment-manager"),  # type: ignore[arg-type]
            clock=self.clock,
            resolve_secret=lambda reference: reference,
            grace_seconds=1.0,
            output_limit_bytes=0,
            host="here",
            bundle_checkpoints=bundled,
        )
        self.executor = Executor(self.plumbing)
        self.inspector = Inspector(self.plumbing, self.executor)
        pull_requests = PullRequestHandlers(
            EntityStore(self.memory.log, PULL_REQUEST, self.clock), self.workspaces, self.memory.content
        )
        self.hosts = Hosts(self.memory.hosts, self.clock, own="here", lease_seconds=15.0)
        moving = Moving(self.plumbing, self.executor, self.hosts)
        self.handlers = Handlers(self.plumbing, self.executor, moving, pull_requests)
        self.keeper = Keeper(self.memory.log, self.plumbing, self.executor, self.handlers.prepare, self.systems)
        self.people = People(self.plumbing, self.executor, moving, self.handlers, self.keeper)
        self.workspaces.directory(self.id).mkdir(parents=True, exist_ok=True)

    async def stand(self, id: str = "") -> Environments:
        self.workspaces.environments.append(id or self.id)
        prepared = msgspec.structs.replace(PREPARED, bundled=self.plumbing.bundle_checkpoints)
        await self.executor.append(id or self.id, Cause(id=f"{id}-prepared"), lambda state: (prepared,))
        return self

    def room(self) -> Room:
        """Where its calls are."""
        found = self.executor.rooms.find(self.id)
        assert found is not None
        return found

    async def events(self) -> list[str]:
        """What the log holds of the environment, but for its preparation."""
        records = await self.memory.log.load(ENVIRONMENT.name, self.id)
        said = [event for record in records for event in record.envelope.events][1:]
        return [f"{type(event).__name__} {event.call_id}" for event in said]  # type: ignore[attr-defined]
