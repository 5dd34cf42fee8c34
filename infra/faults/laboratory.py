"""A whole Cairn of its own, in which services are killed at chosen points of the log.

Both servers and every service are real processes, supervised as ``cairn up`` does it; the services reach NATS through
``LogProxy``. One task after another is submitted, each an equal of the one before, and each is disturbed at one point.
The laboratory itself reads the log over a connection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from events import names, subjects
from events.agents import Agent
from events.envelope import CommandEnvelope, Recorded
from events.errors import CairnError, Transient
from events.kernel import Command
from events.project import AddProject, ProjectSettings
from events.task import SubmitTask, TaskSpecification
from infra.clock import SystemClock
from infra.embedded import stack_file
from infra.embedded.stack import SERVERS, SERVICES, Stack
from infra.embedded.supervisor import Report
from infra.faults.account import RECOVERY, Account, account_of, belongs
from infra.faults.log_proxy import Append, LogProxy, When
from infra.faults.recording import transcript_of
from infra.jetstream.connection import JetStream
from infra.ports import Following, read_content
from infra.settings import Nats, Settings, load

PROJECT = "lab"
READY_SECONDS = 60.0
ANSWER_SECONDS = 30.0
# How long nothing may happen before an undisturbed task is taken to have come to rest.
QUIET_SECONDS = 1.0
# How often processes are looked at: nobody tells when one is ready or gone.
LOOK_SECONDS = 0.02
# What a shim gives to all that it starts.
MARKER = b"CAIRN_ENVIRONMENT_DIRECTORY="

# Victims that are several processes. A worker is lost with the shims and the tools under them, as with its host.
HANDLER = "handler"
WORKER = "worker"
EVERYTHING = "everything"
_GROUPS = {
    WORKER: (subjects.AGENT_RUNNER, subjects.ENVIRONMENT_MANAGER),
    EVERYTHING: (*SERVICES, *SERVERS),
}
VICTIMS = (*SERVICES, *SERVERS, WORKER, EVERYTHING)


class Point(msgspec.Struct, frozen=True, order=True):
    """``victim`` is a service, a server, ``worker``, ``everything``, or ``handler``: the service whose append it is.
    With ``gently`` it is asked to stop, as an update does it, and what it sends meanwhile is passed on."""

    number: int
    when: When
    victim: str = HANDLER
    gently: bool = False

    def __str__(self) -> str:
        return f"{self.when} {self.number}, {self.victim}{' gently' if self.gently else ''}"


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One task. ``decisions`` are the names of the events of each, in the order of the log. ``struck`` is the append at
    which the victim was killed; None where the log never got there."""

    task: str
    decisions: tuple[tuple[str, ...], ...]
    account: Account
    appends: tuple[Append, ...]
    struck: Append | None
    seconds: float

    @property
    def certain_appends(self) -> int:
        """How many appends any such task gets to: one for each of its own decisions. More may have passed: of what went
        on beside it, of a recovery, or such as the log refused."""
        return sum(any(name not in RECOVERY for name in names) for names in self.decisions)


class Unfit(CairnError):
    """The laboratory cannot work; the message says why."""


class Laboratory:
    """``directory`` is empty; the project's repository is pushed to. ``executions`` is a file in which whatever is
    executed outside the log's sight can count: a line each, which names the task, its environment or its call."""

    def __init__(
        self,
        directory: Path,
        agents: Mapping[str, Agent],
        project: ProjectSettings,
        *,
        settings: Mapping[str, Any] | None = None,
        report: Callable[[Report], None] = lambda report: None,
    ) -> None:
        self.directory = directory
        self.home = directory / ".cairn"
        self.executions = directory / "executions"
        self.proxy = LogProxy()
        self._agents = dict(agents)
        self._project = project
        self._settings = settings or {}
        self._report = report
        self._stack: Stack | None = None
        self._jetstream: JetStream | None = None
        self._following: Following | None = None
        self._records: list[Recorded] = []
        self._deliveries: dict[str, str] = {}
        self._task = ""
        self._number = 0
        self._heard_at = 0.0
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Start everything and add the project."""
        settings_file = self._write_settings()
        settings = load(settings_file, {})
        await self.proxy.open(tuple(SERVICES))
        self._stack = Stack(
            self.home, settings, settings_file=settings_file, variables_of=self._variables, report=self._report
        )
        await asyncio.to_thread(self._stack.start)
        unready = await asyncio.to_thread(self._stack.supervisor.wait_until_ready, READY_SECONDS)
        if unready:
            message = f"not ready: {', '.join(unready)}. Their logs are in {self.home / 'logs'}."
            raise Unfit(message)
        file = stack_file.read(self.home)
        assert file is not None
        direct = msgspec.structs.replace(settings, nats=Nats(url=file.nats_url))
        self._jetstream = await JetStream.connect(direct, "laboratory")
        self._following = await self._jetstream.log.follow(self._take, after=0)
        await self._ask(self._project.prefix, "project", PROJECT, AddProject(settings=self._project))

    async def stop(self) -> None:
        if self._following is not None:
            await self._following.close()
        if self._jetstream is not None:
            await self._jetstream.close()
        if self._stack is not None:
            await asyncio.to_thread(self._stack.stop)
        await self.proxy.close()
        self._end_shims()

    async def undisturbed(self, specification: TaskSpecification, *, seconds: float = 120.0) -> Trial:
        """A task that is left alone, until it has come to rest."""
        self.proxy.count()
        return await self._try(specification, self._at_rest, seconds)

    async def disturbed(
        self,
        specification: TaskSpecification,
        point: Point,
        *,
        until: Callable[[Account], bool] | None = None,
        seconds: float = 60.0,
    ) -> Trial:
        """A task that is disturbed at one point, until its account is as ``until`` says or the time is over."""

        async def strike(handler: str) -> None:
            if point.gently:
                self._signal(point.victim, handler, gently=True)
            else:
                await self.kill(point.victim, handler)

        def held(handler: str) -> Sequence[str]:
            return () if point.gently else self._processes_of(point.victim, handler)

        self.proxy.arm(point.number, point.when, victims=held, strike=strike)
        settled = until or (lambda account: account.settled)
        trial = await self._try(specification, lambda account: settled(account) and self.is_complete(), seconds)
        await self._until(lambda: self.is_complete(), READY_SECONDS)
        return trial

    async def kill(self, victim: str, handler: str = "") -> None:
        """SIGKILL to all that a victim is, at once; returns when it is dead. It is started again."""
        dying = self._signal(victim, handler)
        if victim in _GROUPS:
            self._end_shims()
        await self._until(lambda: not any(self._lives(name, pid) for name, pid in dying.items()), READY_SECONDS)

    def add_agent(self, name: str, agent: Agent) -> None:
        """Describe one more agent; a scheduler that runs reads the file again when it is asked for it."""
        self._agents[name] = agent
        self._write_settings()

    async def recorded(self) -> dict[str, Any]:
        """What the model said in the last task, as a transcript."""
        assert self._jetstream is not None
        content = self._jetstream.content
        return await transcript_of(self._records, lambda item: read_content(content, item))

    async def next_task(self, specification: TaskSpecification) -> str:
        """Submit a task; answers its id, known or not whether it was taken yet."""
        self._number += 1
        self._task = names.task_id(self._project.prefix, self._number)
        self._records.clear()
        id = uuid.uuid4().hex
        while True:
            try:
                await self._ask(id, "project", PROJECT, SubmitTask(specification=specification))
            except Transient:
                continue  # NATS was struck; sent again, it is the same command.
            else:
                return self._task

    async def last_sequence(self) -> int:
        """Of the log, as it is now."""
        assert self._jetstream is not None
        return await self._jetstream.log.last_sequence()

    async def accounts(self) -> dict[str, Account]:
        """Of every task up to now, read from the beginning of the log."""
        assert self._jetstream is not None
        log = self._jetstream.log
        records = [record async for batch in log.replay() for record in batch]
        lines = self._counted()
        tasks = [names.task_id(self._project.prefix, number) for number in range(1, self._number + 1)]
        deliveries: dict[str, str] = {}
        return {
            task: account_of(
                task,
                [record for record in records if belongs(task, record, deliveries)],
                [line for line in lines if f"{task}-" in line],
            )
            for task in tasks
        }

    def account(self) -> Account:
        """Of the task submitted last, as it is now."""
        mine = [line for line in self._counted() if f"{self._task}-" in line]
        return account_of(self._task, self._records, mine)

    def _counted(self) -> list[str]:
        return self.executions.read_text(encoding="utf-8").splitlines() if self.executions.exists() else []

    async def until(self, holds: Callable[[Account], bool], seconds: float = 60.0) -> Account:
        """Wait until the account of the last task is so, or the time is over; answers how it is then."""
        account = self.account()

        def check() -> bool:
            nonlocal account
            account = self.account()
            return holds(account)

        await self._until(check, seconds)
        return account

    def _write_settings(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "cairn.toml"
        document = {"gateway": {"port": 0}, **self._settings, "agents": msgspec.to_builtins(self._agents)}
        fresh = path.with_name(".cairn.toml")
        fresh.write_text(_toml_document(document), encoding="utf-8")
        fresh.replace(path)
        return path

    def is_complete(self) -> bool:
        """Whether every process is there again."""
        return all(keeper.ready.is_set() for keeper in self._keepers.values())

    # ---- one task

    async def _try(self, specification: TaskSpecification, done: Callable[[Account], bool], seconds: float) -> Trial:
        began = time.monotonic()
        task = await self.next_task(specification)
        account = await self.until(done, seconds)
        return Trial(
            task=task,
            decisions=tuple(
                tuple(type(event).__name__ for event in record.envelope.events) for record in self._records
            ),
            account=account,
            appends=tuple(self.proxy.appends),
            struck=self.proxy.struck,
            seconds=time.monotonic() - began,
        )

    def _at_rest(self, account: Account) -> bool:
        return account.settled and time.monotonic() - self._heard_at > QUIET_SECONDS

    async def _until(self, holds: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not holds() and time.monotonic() < deadline:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_SECONDS)

    def _take(self, record: Recorded) -> None:
        if self._task and belongs(self._task, record, self._deliveries):
            self._records.append(record)
            self._heard_at = time.monotonic()
            self._changed.set()

    async def _ask(self, id: str, entity: str, entity_id: str, command: Command) -> None:
        assert self._jetstream is not None
        envelope = CommandEnvelope(
            id=id,
            tenant=Settings().tenant,
            entity=entity,
            entity_id=entity_id,
            time=SystemClock().now(),
            command=command,
            actor="laboratory",
        )
        outcome = await self._jetstream.commands.ask(
            subjects.SCHEDULER, subjects.ANY, envelope, timeout_seconds=ANSWER_SECONDS
        )
        if outcome is not None and not outcome.accepted:
            raise Unfit(outcome.message)

    # ---- processes

    @property
    def url(self) -> str:
        """Of the gateway."""
        assert self._stack is not None
        return self._stack.url

    @property
    def _keepers(self) -> Mapping[str, Any]:
        assert self._stack is not None
        return self._stack.supervisor.keepers

    def _lives(self, name: str, pid: int | None) -> bool:
        """Whether the process that had this number is still that program."""
        program = self._keepers[name].program
        return bool(program.pid == pid and not program.has_exited())

    def _variables(self, service: str, file: stack_file.StackFile) -> dict[str, str]:
        """The reaper beside the services has no connection to NATS."""
        return {"CAIRN_NATS__URL": self.proxy.url(service, file.nats_url)} if service in SERVICES else {}

    def _processes_of(self, victim: str, handler: str) -> Sequence[str]:
        return _GROUPS.get(victim) or (handler if victim == HANDLER else victim,)

    def _signal(self, victim: str, handler: str, *, gently: bool = False) -> dict[str, int | None]:
        """Answers the pids that the processes had."""
        dying = {name: self._keepers[name].program.pid for name in self._processes_of(victim, handler)}
        for name in dying:
            keeper = self._keepers[name]
            keeper.forgive()
            keeper.ready.clear()
            keeper.program.signal(keeper.program.stop_signal if gently else signal.SIGKILL)
        return dying

    def _end_shims(self) -> None:
        """Kill every process of every environment: shims, keepers, and all that they started."""
        marker = MARKER + os.fsencode(self.home)
        while found := [pid for pid in _processes() if _is_marked(pid, marker)]:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - names are all that is wanted


def _is_marked(pid: int, marker: bytes) -> bool:
    try:
        return any(item.startswith(marker) for item in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return False  # Gone, or another user's.


def _toml_document(document: Mapping[str, Any]) -> str:
    return "".join(f"{_toml_key(key)} = {_toml(value)}\n" for key, value in document.items())


def _toml(value: Any) -> str:
    """A value on one line. JSON's strings, numbers and lists are TOML's too."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return msgspec.json.encode(value).decode()


def _toml_key(key: str) -> str:
    return msgspec.json.encode(key).decode()
