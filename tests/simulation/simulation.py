"""One seed: services, workload and faults put together, run until every task has ended, and handed to the checkers.

Services are built as their ``__main__`` builds them, each over ports of its own process; whatever crashes is started
again after a moment, as a supervisor does it. Faults come at the steps of processes (``network``) and, from outside,
at times: power failures of a host, jumps of its clock, connections that break. After a while they stop, and everything
must come to its end within bounded time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog

from events.envelope import Recorded
from events.environment import ENVIRONMENT, CallEnd, EnvironmentMoved, EnvironmentPrepared
from events.errors import CairnError
from events.preflight import Finding
from events.run import ToolCallRequested
from events.task_state import TASK, Task
from infra.health import Health
from infra.memory.plumbing import Memory
from infra.service import Runtime
from infra.settings import Scheduling, Settings, Webhook, Worker
from services.agent_runner.__main__ import AgentRunner
from services.environment_manager.__main__ import EnvironmentManager
from services.environment_manager.preflight import Preflight
from services.notifier.notifier import Notifier
from services.notifier.ports import Answer, Arrived, Refused
from services.scheduler.__main__ import Scheduler
from services.scheduler.board import Board
from tests.simulation.loop import NothingLeft, VirtualLoop
from tests.simulation.network import Faults, Network, Process, TrueClock
from tests.simulation.ports import HostLeases, Ports
from tests.simulation.projecting import Database, Projector, Store
from tests.simulation.workload import People, SimulatedModels, Workload, unfinished, written_path
from tests.simulation.workspaces import HostWorkspaces
from tests.simulation.world import BY_HAND, HostProcesses, World, file_tools

HOSTS = ("north", "south")
# The share of seeds in which a host that stands still for longer than a lease loses its environments to the other.
BUNDLED = 0.35
# The share of calls after which somebody changes the workspace by hand, where anybody does.
MEDDLED = 0.15
CONTROL = "control"
CONTROL_TOO = "control-too"
TWO_SCHEDULERS = 0.4
KINDS = ("power", "away", "clock", "connection", "crash", "crash", "freeze", "hand", "none", "none")
FAULTS_UNTIL_SECONDS = 40.0
SETTLE_SECONDS = 80.0
LONGEST_SECONDS = 900.0
LONGEST_STEPS = 20_000


@dataclass
class Result:
    """What a seed came to. ``digest`` is of every step and every byte of the log."""

    seed: int
    violations: list[str]
    steps: int
    seconds: float
    digest: str
    trace: list[tuple[Any, ...]]


@dataclass(frozen=True)
class SimulatedRuntime(Runtime):
    """What a service is given, for one life of it."""

    simulation: Simulation | None = None
    life: Process | None = None

    def leases(self, durable: str, lease_seconds: float) -> HostLeases:
        assert self.simulation is not None
        assert self.life is not None
        return HostLeases(self.simulation.leases_of(self.life.host, durable), self.life, lease_seconds)

    def guard(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        assert self.simulation is not None
        assert self.life is not None
        if not task.cancelled() and (error := task.exception()) is not None:
            self.simulation.died(self.life, error)


@dataclass
class Observed:
    """The log as it grows, folded for those who must know at once."""

    tasks: dict[str, Task] = field(default_factory=dict)
    ended_calls: set[str] = field(default_factory=set)
    call_of_path: dict[str, str] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)

    def see(self, record: Recorded) -> None:
        envelope = record.envelope
        if envelope.entity == TASK.name:
            task = self.tasks.get(envelope.entity_id) or TASK.initial(envelope.entity_id)
            self.tasks[task.id] = TASK.fold_onto(task, envelope.events)
        for event in envelope.events:
            if isinstance(event, CallEnd):
                self.ended_calls.add(event.call_id)
            elif isinstance(event, EnvironmentPrepared | EnvironmentMoved):
                self.homes[envelope.entity_id] = event.host
            elif isinstance(event, ToolCallRequested) and event.tool == "write_file":
                self.call_of_path[written_path(event)] = event.call_id

    def home(self, environment_id: str) -> str:
        """The host that the environment lives on."""
        return self.homes.get(environment_id, "")

    def has_ended(self, environment_id: str, call: str) -> bool:
        return self.call_of_path.get(call, call) in self.ended_calls


class Receivers:
    """Where the notifier's webhooks lead. ``told`` counts the arrivals of each delivery."""

    def __init__(self, simulation: Simulation, life: Process) -> None:
        self._simulation = simulation
        self._life = life

    async def send(self, delivery_id: str, planned: Any) -> Answer:
        async def effect() -> Answer:
            faults = self._life.network.faults
            if faults.strikes(faults.unreachable):
                return Refused("503")
            self._simulation.told.append(delivery_id)
            return Arrived()

        return await self._life.call(("tell", delivery_id), effect, certain=True)


class Position:
    """How far the notifier has read, on its host's disk."""

    def __init__(self, kept: dict[str, int], life: Process) -> None:
        self._kept = kept
        self._life = life

    def read(self, log_created_at: datetime) -> int | None:
        return self._kept.get("position")

    def write(self, log_created_at: datetime, sequence: int) -> None:
        if self._life.alive:
            self._kept["position"] = sequence


class Simulation:
    """Plants override ``ports`` and the functions that build services."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.faults = Faults.of(self.chance)
        self.workload = Workload(self.chance)
        self.observed = Observed()
        self.bundled = self.chance.random() < BUNDLED
        self.meddling = self.chance.choice((0, 0, 0, 1, 2))
        self.two_schedulers = self.chance.random() < TWO_SCHEDULERS
        self.world = World(HOSTS, self.observed.has_ended, self.observed.home, shared=not self.bundled)
        self.database = Database()
        self.bugs: list[str] = []
        self.told: list[str] = []
        self.lives: dict[tuple[str, str], Process] = {}
        self._count = 0
        self._leases: dict[tuple[str, str], dict[str, datetime]] = {}
        self._position: dict[str, int] = {}
        self._ahead: dict[str, timedelta] = {}
        self._away_until: dict[str, float] = {}
        self._ports: dict[Process, Ports] = {}
        self.stuck = ""

    # ---- services

    def ports(self, life: Process) -> Ports:
        return Ports(life)

    def scheduler(self, runtime: SimulatedRuntime) -> Coroutine[Any, Any, Any]:
        return Scheduler(runtime, Board(), self).start()

    def agent_runner(self, runtime: SimulatedRuntime) -> Coroutine[Any, Any, Any]:
        assert runtime.life is not None
        return AgentRunner(runtime, SimulatedModels(self.workload, runtime.life), runner=runtime.life.name).start()

    def environment_manager(self, runtime: SimulatedRuntime) -> Coroutine[Any, Any, Any]:
        life = runtime.life
        assert life is not None
        host = self.world.hosts[life.host]
        return EnvironmentManager(
            runtime,
            HostWorkspaces(self.world, host, life),
            HostProcesses(self.world, host, life),
            file_tools(self.world, host, life),
            Preflight(self.known, _try_program, runtime.clock, seconds=runtime.settings.worker.preflight_seconds),
        ).start()

    def notifier(self, runtime: SimulatedRuntime) -> Coroutine[Any, Any, Any]:
        assert runtime.life is not None
        return Notifier(
            runtime.jetstream.log,
            runtime.clock,
            runtime.settings.webhooks,
            Receivers(self, runtime.life),
            Position(self._position, runtime.life),
            runtime.guard,
        ).start()

    def projector(self, runtime: SimulatedRuntime) -> Coroutine[Any, Any, Any]:
        life = runtime.life
        assert life is not None
        return Projector(runtime.jetstream.log, runtime.clock, lambda: self.store(life)).run()

    def store(self, life: Process) -> Store:
        return Store(self.database, life)

    def known(self) -> Any:
        """The agents that are configured (``services.scheduler.ports.Agents``)."""
        return self.workload.agents

    def leases_of(self, host: str, durable: str) -> dict[str, datetime]:
        return self._leases.setdefault((host, durable), {})

    # ---- lives

    def start(self, service: str, host: str) -> None:
        self._count += 1
        life = Process(self.network, f"{service}@{host}#{self._count}", host, lambda life: self._restart(service, life))
        life.ahead = self._ahead.get(host, timedelta())
        self.lives[service, host] = life
        self._ports[life] = ports = self.ports(life)
        settings = Settings(
            home="/nowhere",
            worker=Worker(
                host=host,
                lease_seconds=8.0,
                model_backoff_seconds=0.5,
                grace_seconds=2.0,
                bundle_checkpoints="always" if self.bundled else "never",
            ),
            scheduling=Scheduling(
                agents_at_once=self.workload.agents_at_once, backoff_seconds=0.5, breaker_seconds=3.0
            ),
            agents=self.workload.agents,
            webhooks={"chat": Webhook(url="https://chat.example/", secret="env:NONE")},
        )
        runtime = SimulatedRuntime(service, settings, ports, life, Health(service), simulation=self, life=life)  # type: ignore[arg-type]
        build: Callable[[SimulatedRuntime], Coroutine[Any, Any, Any]] = getattr(self, service)
        self.network.note(life.name, "START")
        runtime.guard(asyncio.get_running_loop().create_task(build(runtime)))

    def died(self, life: Process, error: BaseException) -> None:
        """A service ended by itself: as it should where the outside fails, by a bug else."""
        if self.network.over or not life.alive:
            return
        self.network.note(life.name, "DIED", repr(error))
        if not isinstance(error, CairnError):
            self.bugs.append(f"{life.name} died of {error!r}")
        life.crash()

    def _restart(self, service: str, life: Process) -> None:
        self._ports.pop(life, None)
        loop = asyncio.get_running_loop()
        at = max(loop.time(), self._away_until.get(life.host, 0.0)) + self.chance.choice((0.2, 0.5, 1.0, 5.0))
        loop.call_at(at, self._start_again, service, life.host)

    def _start_again(self, service: str, host: str) -> None:
        if not self.network.over:
            self.start(service, host)

    # ---- faults from outside

    async def _disturb(self) -> None:
        """Every few seconds, something that is no step of any process."""
        while self.faults.left > 0:
            await asyncio.sleep(self.chance.uniform(0.5, 8.0))
            kind = self.chance.choice(KINDS)
            host = self.chance.choice(HOSTS)
            if kind == "none" or not self.faults.strikes(1.0):
                continue
            life = self.lives[self.chance.choice(sorted(self.lives))]
            if kind in ("power", "away"):
                # For longer than a lease: then another host takes over what it has bundled.
                away_seconds = self.chance.uniform(10.0, 30.0) if kind == "away" else 0.0
                self._away_until[host] = asyncio.get_running_loop().time() + away_seconds
                self.network.note(host, "POWER", round(away_seconds, 3))
                self.world.hosts[host].lose_power()
                for (_, place), other in list(self.lives.items()):
                    if place == host:
                        other.crash()
            elif kind == "hand":
                self._change_by_hand(host)
            elif kind == "clock":
                jump = timedelta(seconds=self.chance.uniform(-120, 120))
                self.network.note(host, "CLOCK", jump.total_seconds())
                self._ahead[host] = self._ahead.get(host, timedelta()) + jump
                for (_, place), other in self.lives.items():
                    if place == host:
                        other.ahead = self._ahead[host]
            elif kind == "connection":
                self.network.note(life.name, "RECONNECTED")
                for callback in self._ports[life].reconnected if life in self._ports else ():
                    callback()
            elif kind == "crash":
                life.crash()
            elif life.alive:
                life.freeze(self.chance.uniform(1.0, 25.0))

    def _change_by_hand(self, host: str, id: str = "") -> None:
        """Somebody writes into a workspace, whatever goes on there."""
        standing = [id] if id else sorted(self.world.hosts[host].workspaces)
        if standing:
            id = self.chance.choice(standing)
            workspace = self.world.hosts[host].workspaces[id]
            workspace.files[BY_HAND] = f"{self.chance.random()}"
            workspace.changed_by_hand = True
            self.network.note(host, "BY HAND", id)

    def _meddle(self, record: Recorded) -> None:
        """Between two calls: what is changed while one runs, its checkpoint takes along. Whoever takes over the run
        looks at its workspace first, and finds it diverged."""
        id, ended = record.envelope.entity_id, any(isinstance(event, CallEnd) for event in record.envelope.events)
        home = self.observed.home(id)
        if ended and self.meddling and id in self.world.hosts[home].workspaces and self.chance.random() < MEDDLED:
            self.meddling -= 1
            self._change_by_hand(home, id)
            for host in HOSTS:
                self.lives["agent_runner", host].crash()

    # ---- the whole

    def run(self) -> Result:
        loop = VirtualLoop()
        state = random.getstate()
        random.seed(self.seed)
        violations: list[str] = []
        try:
            with _quiet(self.bugs):
                violations = loop.finish(self._live())
        except NothingLeft:
            violations = ["everything stands still"]
        finally:
            random.setstate(state)
        trace = self.network.trace
        digest = hashlib.sha256(repr(trace).encode())
        for message in self.network.memory.log._messages:
            digest.update(message.data)
        return Result(self.seed, violations, len(trace), loop.time(), digest.hexdigest(), trace)

    async def _live(self) -> list[str]:
        from tests.simulation.checkers import check

        self.network = Network(Memory(clock=TrueClock()), self.faults)
        await self.network.memory.log.follow(self.observed.see, after=0)
        await self.network.memory.log.follow(self._meddle, after=0, entities=(ENVIRONMENT.name,))
        self.start("scheduler", CONTROL)
        self.start("notifier", CONTROL)
        self.start("projector", CONTROL)
        if self.two_schedulers:
            self.start("scheduler", CONTROL_TOO)
        for host in HOSTS:
            self.start("environment_manager", host)
            self.start("agent_runner", host)
        self.people = People(self.network, self.workload)
        await self.people.begin()
        disturbing = asyncio.get_running_loop().create_task(self._disturb())
        await self._until_finished()
        self.faults.left = 0
        await asyncio.sleep(SETTLE_SECONDS)
        disturbing.cancel()
        self.network.over = True
        return check(self)

    def status(self, task_id: str) -> str:
        task = self.observed.tasks.get(task_id)
        return task.status if task is not None else "unknown"

    async def _until_finished(self) -> None:
        loop = asyncio.get_running_loop()
        while self.people.tasks or unfinished(self.workload, self.status):
            if loop.time() > FAULTS_UNTIL_SECONDS:
                self.faults.left = 0
            if loop.time() > LONGEST_SECONDS or len(self.network.trace) > LONGEST_STEPS:
                return
            await asyncio.sleep(0.5)


class _Bugs(logging.Handler):
    """What consumers call a bug is one: an exception that no handler should raise."""

    def __init__(self, bugs: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._bugs = bugs

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, asyncio.CancelledError):
            self._bugs.append(record.getMessage())


async def _try_program(program: str, arguments: Sequence[str]) -> Finding:
    return Finding()


@contextmanager
def _quiet(bugs: list[str]) -> Iterator[None]:
    """Nothing is logged, but what a consumer calls a bug is kept."""
    consumer = logging.getLogger("cairn.consumer")
    before, propagate, level = structlog.get_config(), consumer.propagate, consumer.level
    handler = _Bugs(bugs)
    consumer.addHandler(handler)
    consumer.propagate = False
    consumer.setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
        consumer.removeHandler(handler)
        consumer.propagate = propagate
        consumer.setLevel(level)


def simulate(seed: int, kind: type[Simulation] = Simulation) -> Result:
    return kind(seed).run()
