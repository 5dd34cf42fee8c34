"""The chaos service over the in-memory log and an engine that is a dictionary, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from events.chaos import CHAOS, HALT
from events.envelope import CommandEnvelope, Outcome
from events.environment import ENVIRONMENT
from events.errors import Permanent, Transient
from events.experiment import EXPERIMENT, Experiment, RunExperiment
from events.faults import KINDS, AnyFault
from events.kernel import Command, Event
from infra.entities import Cause, EntityStore
from infra.memory.plumbing import Memory
from infra.ports import Clock
from services.chaos import policy, targets
from services.chaos.document import Command as CommandProvider
from services.chaos.document import Compose
from services.chaos.handlers import Handlers
from services.chaos.keeper import Keeper
from services.chaos.ports import Affected, Container, FaultRecord, Injected, Undone
from services.chaos.runner import Plumbing, Runner
from services.chaos.tolerances import Answer
from tests.simulation.loop import VirtualLoop
from tests.unit.environment_twins import PREPARED

ENVIRONMENT_ID = "shop-1-test"
START = datetime(2026, 1, 1, tzinfo=UTC)
CONTAINERS = ("api-1", "worker-1", "worker-2", "database-1")


class LoopClock:
    """The virtual loop's own time."""

    def now(self) -> datetime:
        return START + timedelta(seconds=asyncio.get_running_loop().time())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class MemoryFaults:
    """``port.Faults`` without an engine. Records outlive the service, as containers do; each keeps its own deadline.

    ``cannot`` are kinds that this host cannot do, ``refuses`` makes injecting fail, ``sticky`` are faults that cannot
    be undone, ``away`` is an engine that does not answer. ``history`` tells what was done, with the time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.containers_of: dict[str, tuple[Container, ...]] = {ENVIRONMENT_ID: containers(ENVIRONMENT_ID)}
        self.records: dict[str, FaultRecord] = {}
        self.cannot: dict[str, str] = {}
        self.refuses = ""
        self.sticky: set[str] = set()
        self.away = False
        self.history: list[tuple[str, str, float]] = []

    def _answers(self) -> None:
        if self.away:
            raise Transient("no engine answers")

    def holds(self) -> set[str]:
        """The faults that the system suffers from at this moment."""
        now = self._clock.now().timestamp()
        return {id for id, record in self.records.items() if now < record.until}

    async def capabilities(self) -> dict[str, str]:
        return {kind: self.cannot.get(kind, "") for kind in KINDS}

    async def containers(self, target: str) -> tuple[Container, ...]:
        self._answers()
        return self.containers_of.get(target, ())

    async def resolve(self, target: str, fault: AnyFault) -> Affected:
        return targets.affected(target, fault, await self.containers(target))

    async def inject(
        self, fault_id: str, fault: AnyFault, affected: Affected, until: float, *, experiment_id: str = ""
    ) -> Injected:
        self._answers()
        await asyncio.sleep(0.2)
        if self.refuses:
            raise Permanent(self.refuses, slug="engine-refused")
        if fault_id not in self.records:
            self.history.append(("inject", fault_id, asyncio.get_running_loop().time()))
            self.records[fault_id] = FaultRecord(
                id=f"record-{fault_id}",
                name=fault_id,
                fault_id=fault_id,
                target=affected.target,
                fault=fault,
                until=until,
                hit=affected.hit[0].id,
                experiment_id=experiment_id,
            )
        return Injected(fault_id=fault_id, until=until, containers=(affected.hit[0].id,), seconds=0.2)

    async def undo(self, fault_id: str) -> Undone:
        self._answers()
        await asyncio.sleep(0.1)
        if fault_id in self.sticky:
            return Undone(fault_id=fault_id, stuck=("worker-1: its rules are still there",))
        if self.records.pop(fault_id, None) is not None:
            self.history.append(("undo", fault_id, asyncio.get_running_loop().time()))
        return Undone(fault_id=fault_id, seconds=0.1)

    async def active(self) -> tuple[FaultRecord, ...]:
        self._answers()
        return tuple(self.records.values())

    async def renew(self, fault_id: str, affected: Affected) -> None:
        self.history.append(("renew", fault_id, asyncio.get_running_loop().time()))

    async def changes(self) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield


def containers(target: str) -> tuple[Container, ...]:
    return tuple(
        Container(
            id=f"id-{name}",
            name=f"{target}-{name}",
            target=target,
            service=name.partition("-")[0],
            number=int(name.partition("-")[2]),
            addresses=(f"10.0.0.{place}",),
        )
        for place, name in enumerate(CONTAINERS, 1)
    )


Answers = Callable[[float, set[str]], Answer]


def steady(now: float, holding: set[str]) -> Answer:
    return Answer(value=200, text="all is well")


class MemoryWorld:
    """``answers`` is asked with the time and the faults that hold; ``performed`` are the actions that were done."""

    def __init__(self, faults: MemoryFaults) -> None:
        self._faults = faults
        self.answers: Answers = steady
        self.performed: list[str] = []
        self.fails = ""

    async def ask(self, target: str, provider: Any) -> Answer:
        await asyncio.sleep(0.01)
        return self.answers(asyncio.get_running_loop().time(), self._faults.holds())

    async def perform(self, target: str, action: Compose) -> str:
        await asyncio.sleep(0.5)
        if self.fails:
            raise Permanent(self.fails)
        self.performed.append(f"{action.action} {action.service}")
        return "done"

    async def run(self, environment_id: str, experiment_id: str, call_id: str, command: CommandProvider) -> Answer:
        await asyncio.sleep(0.05)
        return self.answers(asyncio.get_running_loop().time(), self._faults.holds())


class FlakyLog:
    """The in-memory log, with a switch: while it is ``away``, every append fails."""

    def __init__(self, memory: Memory) -> None:
        self._log = memory.log
        self.away = False
        self.before_append: Callable[[], None] = lambda: None
        self.after_append: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, envelope: Any, **expected: Any) -> int:
        if self.away:
            raise Transient("the log is away")
        self.before_append()
        sequence: int = await self._log.append(envelope, **expected)
        self.after_append()
        return sequence


class ChaosTwin:
    """One host's chaos service; ``kill`` ends its process without a word, ``start`` begins another one."""

    def __init__(self, *, rules: policy.Rules | None = None, snapshot: Path | None = None) -> None:
        self.clock = LoopClock()
        self.memory = Memory(clock=self.clock)
        self.log = FlakyLog(self.memory)
        self.faults = MemoryFaults(self.clock)
        self.world = MemoryWorld(self.faults)
        self.rules = rules or policy.Rules()
        self._snapshot = snapshot
        self._commands = 0
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> ChaosTwin:
        experiments = EntityStore(self.log, EXPERIMENT, self.clock)
        self.plumbing = Plumbing(
            experiments=experiments,
            faults=self.faults,
            world=self.world,
            commands=self.world,
            clock=self.clock,
            rules=self.rules,
            host="here",
        )
        self.runner = Runner(self.plumbing)
        chaos = EntityStore(self.log, CHAOS, self.clock)
        environments = EntityStore(self.log, ENVIRONMENT, self.clock)
        self.handlers = Handlers(self.plumbing, self.runner, environments, chaos)
        self.keeper = Keeper(self.log, self.plumbing, self.runner, chaos, self._snapshot)
        self._following = await self.keeper.start()
        self._keeping = asyncio.create_task(self.keeper.run())
        return self

    async def stand(self, id: str = ENVIRONMENT_ID) -> ChaosTwin:
        """An environment to experiment in."""
        store = EntityStore(self.memory.log, ENVIRONMENT, self.clock)
        await store.decide(id, Cause(id=f"{id}-prepared"), lambda state: (PREPARED,))
        return self

    async def kill(self) -> None:
        assert self._keeping is not None
        self._keeping.cancel()
        await self.runner.stop()
        await self._following.close()
        await asyncio.gather(self._keeping, return_exceptions=True)

    async def send(self, id: str, command: Command) -> Outcome:
        self._commands += 1
        envelope = CommandEnvelope(
            id=f"command-{self._commands}",
            tenant="default",
            entity=EXPERIMENT.name if id != HALT else CHAOS.name,
            entity_id=id,
            time=self.clock.now(),
            command=command,
            actor="ada",
        )
        return await (self.handlers.handle_chaos(envelope) if id == HALT else self.handlers.handle(envelope))

    async def run(self, document: dict[str, Any], id: str = "x1", **fields: Any) -> Outcome:
        command = RunExperiment(document=msgspec.json.encode(document).decode(), **{"target": ENVIRONMENT_ID, **fields})
        return await self.send(id, command)

    async def state(self, id: str = "x1") -> Experiment:
        return EXPERIMENT.fold(id, await self.events(id))

    async def events(self, id: str = "x1") -> list[Event]:
        records = await self.memory.log.load(EXPERIMENT.name, id)
        return [event for record in records for event in record.envelope.events]

    async def ended(self, id: str = "x1", seconds: float = 4000.0) -> Experiment:
        """The experiment with its verdict."""
        async with asyncio.timeout(seconds):
            while (state := await self.state(id)).verdict is None:
                await self.clock.sleep(0.1)
        return state


def virtually(work: Callable[[ChaosTwin], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run ``work`` with a service that has started, in virtual time."""

    async def all_of_it() -> None:
        twin = ChaosTwin(**options)
        await (await twin.stand()).start()
        await work(twin)

    VirtualLoop().finish(all_of_it())


# ---- documents


def fault(kind: str = "kill_service", service: str = "worker", seconds: float = 10, **fields: Any) -> dict[str, Any]:
    provider = {"type": "fault", "kind": kind, "service": service, "duration_seconds": seconds, **fields}
    return {"type": "action", "name": f"{kind} {service}", "provider": provider}


def probe(name: str = "api answers", **fields: Any) -> dict[str, Any]:
    provider = {"type": "http", "url": "http://${api:8080}/jobs"}
    return {"type": "probe", "name": name, "provider": provider, "tolerance": 200, **fields}


def document(*method: dict[str, Any], probes: tuple[dict[str, Any], ...] = (), **extension: Any) -> dict[str, Any]:
    return {
        "title": "A worker is killed",
        "steady-state-hypothesis": {"title": "The API answers", "probes": [probe(), *probes]},
        "method": list(method) or [fault()],
        "rollbacks": [],
        "extensions": [{"name": "cairn", **extension}] if extension else [],
    }
