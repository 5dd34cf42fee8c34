"""Keeps the engine and the log in agreement: at start, every two seconds, and whenever a container starts or ends.

At start every experiment of this host that has no verdict is gone on with. A fault that the log does not explain, or
whose time is over, is undone, whether the log can be reached or not; one that is to hold and does not, because its
container was started anew, is renewed. What to do is pure (``reconcile``).

The ids of what is under way are kept on the disk, with the place in the log up to which they are known, so that a start
reads only what came since.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from pathlib import Path

import msgspec
import structlog

from events.chaos import CHAOS, HALT, Chaos, ChaosCapabilitiesFound, ChaosHalted, host_entity
from events.envelope import Recorded
from events.errors import CairnError
from events.experiment import EXPERIMENT, ExperimentRequested, Verdict
from infra.entities import Cause, EntityStore
from infra.ports import EventLog, Following
from infra.snapshots import SnapshotFile
from services.chaos import reconcile
from services.chaos.deciders import chaos as chaos_decider
from services.chaos.deciders import experiment as decider
from services.chaos.ports import FaultRecord
from services.chaos.runner import ACTOR, Plumbing, Runner

logger = structlog.get_logger()

INTERVAL_SECONDS = 2.0
WITHOUT_ENGINE_SECONDS = 15.0


class UnderWay(msgspec.Struct):
    """The experiments of this host that were requested and have no verdict."""

    ids: list[str] = []


class Keeper:
    """``snapshot`` is where what is under way is kept; None keeps nothing."""

    def __init__(
        self,
        log: EventLog,
        plumbing: Plumbing,
        runner: Runner,
        chaos: EntityStore[Chaos],
        snapshot: Path | None = None,
    ) -> None:
        self._log = log
        self._plumbing = plumbing
        self._runner = runner
        self._chaos = chaos
        self._snapshot = SnapshotFile(snapshot, UnderWay) if snapshot is not None else None
        self._under_way: dict[str, None] = {}
        self._sequence = 0
        self._look = asyncio.Event()
        self._capabilities: dict[str, str] | None = None
        self._halting: set[asyncio.Task[None]] = set()
        self.engine = ""

    async def start(self) -> Following:
        """Go on with everything that is under way, then hear of what comes."""
        last = await self._log.last_sequence()
        await self._fold(last)
        for id in list(self._under_way):
            await self._resume(id)
        halted = (await self._chaos.load(HALT))[0].halted
        if halted is not None:
            await self._call_all_off(halted)
        return await self._log.follow(self._deliver, after=last, entities=(EXPERIMENT.name, CHAOS.name))

    async def run(self) -> None:
        """For ever. Where no engine answers, that is tried seldom and said once."""
        while True:
            seconds = await self._keep()
            self._look.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._look.wait()

    async def watch(self) -> None:
        """Look again whenever a container starts or ends. For ever."""
        while True:
            try:
                async for _ in self._plumbing.faults.changes():
                    self._look.set()
            except CairnError:
                await self._plumbing.clock.sleep(WITHOUT_ENGINE_SECONDS)

    async def _fold(self, last: int) -> None:
        created_at = await self._log.created_at()
        known = self._snapshot.load(created_at=created_at, last_sequence=last) if self._snapshot is not None else None
        after = 0
        if known is not None:
            self._under_way, after = dict.fromkeys(known[0].ids), known[1]
        async for records in self._log.replay(after=after, until=last, entities=(EXPERIMENT.name,)):
            for record in records:
                self._note(record)
        self._sequence = max(last, after)
        await self._save()

    async def _save(self) -> None:
        if self._snapshot is not None:
            created_at = await self._log.created_at()
            self._snapshot.save(UnderWay(list(self._under_way)), created_at=created_at, sequence=self._sequence)

    async def stop(self) -> None:
        with contextlib.suppress(CairnError):
            await self._save()

    def _note(self, record: Recorded) -> None:
        id = record.envelope.entity_id
        for event in record.envelope.events:
            if isinstance(event, ExperimentRequested) and event.host == self._plumbing.host and not event.dry_run:
                self._under_way[id] = None
            elif isinstance(event, Verdict):
                self._under_way.pop(id, None)
        self._sequence = record.sequence

    def _deliver(self, record: Recorded) -> None:
        if record.envelope.entity == EXPERIMENT.name:
            self._note(record)
        for event in record.envelope.events:
            if isinstance(event, ChaosHalted):
                task = asyncio.create_task(self._call_all_off(event))
                self._halting.add(task)
                task.add_done_callback(self._halting.discard)

    async def _resume(self, id: str) -> None:
        state, _ = await self._plumbing.experiments.load(id)
        if state.active and not self._runner.works_on(id):
            self._runner.begin(state)
            document = self._runner.document(id)
            cause = Cause(id=f"{id}-resumed-{uuid.uuid4().hex[:12]}", actor=ACTOR)
            decision = await self._plumbing.experiments.decide(
                id, cause, lambda state: decider.resume(state, document, self._plumbing.host)
            )
            self._runner.wake(id, decision.state)
            logger.warning("experiment resumed", experiment=id, status=decision.state.status)

    async def _call_all_off(self, halted: ChaosHalted) -> None:
        """Also those whose request is heard of only after the halt: their handler looks at the halt itself."""
        detail = halted.reason or "chaos is halted"
        for id in list(self._under_way):
            cause = Cause(id=f"{id}-halted-{uuid.uuid4().hex[:12]}", actor=ACTOR)
            while True:
                try:
                    await self._plumbing.experiments.load(id)
                    decision = await self._plumbing.experiments.decide(
                        id, cause, lambda state: decider.call_off(state, "halted", detail, by=halted.by)
                    )
                except CairnError as error:
                    logger.warning("halted later", experiment=id, error=str(error))
                    await self._plumbing.clock.sleep(1.0)
                else:
                    self._runner.wake(id, decision.state)
                    break

    # ---- the engine

    async def _keep(self) -> float:
        """Compare once; answers in how many seconds to look again."""
        faults = self._plumbing.faults
        try:
            await self._tell_capabilities()
            records = await faults.active()
            containers = {target: await faults.containers(target) for target in reconcile.needs_containers(records)}
            known = self._runner.intended() | await self._explained(records)
            now = self._plumbing.clock.now().timestamp()
            experiments = {record.fault_id: record.experiment_id for record in records}
            for action in reconcile.reconcile(records, containers, now, known=known):
                await self._carry_out(action, experiments)
        except CairnError as error:
            if str(error) != self.engine:
                logger.warning("faults not kept", error=str(error))
            self.engine = str(error)
            return WITHOUT_ENGINE_SECONDS if not self._runner.busy else INTERVAL_SECONDS
        self.engine = ""
        return INTERVAL_SECONDS

    async def _explained(self, records: tuple[FaultRecord, ...]) -> set[str]:
        """Faults that an experiment of the log explains which is not under way here: another host's, or one whose end
        is not known because the log is away. Only time decides about those."""
        explained: set[str] = set()
        for record in records:
            if not record.experiment_id or self._runner.works_on(record.experiment_id):
                continue
            try:
                state, _ = await self._plumbing.experiments.load(record.experiment_id)
            except CairnError:
                explained.add(record.fault_id)
                continue
            if state.active and record.fault_id in state.open_faults:
                explained.add(record.fault_id)
        return explained

    async def _carry_out(self, action: reconcile.Action, experiments: dict[str, str]) -> None:
        match action:
            case reconcile.Undo(fault_id=fault_id, reason=reason):
                await self._undo(fault_id, experiments.get(fault_id, ""), reason)
            case reconcile.Renew(fault_id=fault_id, affected=affected):
                await self._plumbing.faults.renew(fault_id, affected)
                logger.info("fault renewed", fault=fault_id)
            case reconcile.Missing():
                pass  # Its experiment undoes it at its end, which finds nothing left.

    async def _undo(self, fault_id: str, experiment_id: str, reason: str) -> None:
        known = self._plumbing.experiments.peek(experiment_id) if experiment_id else None
        explained = known is not None and fault_id in known[0].faults
        if explained:
            await self._runner.undo(experiment_id, fault_id, "ended")
        else:
            undone = await self._plumbing.faults.undo(fault_id)
            logger.warning("fault undone", fault=fault_id, reason=reason, left=undone.stuck)

    async def _tell_capabilities(self) -> None:
        """In the log where they have changed: whoever asks what can be done here reads it there."""
        capabilities = await self._plumbing.faults.capabilities()
        if capabilities == self._capabilities:
            return
        found = ChaosCapabilitiesFound(host=self._plumbing.host, faults=capabilities)
        id = host_entity(self._plumbing.host)
        cause = Cause(id=f"{id}-{uuid.uuid4().hex[:12]}", actor=ACTOR)
        await self._chaos.load(id)
        await self._chaos.decide(id, cause, lambda state: chaos_decider.find_capabilities(state, found))
        self._capabilities = capabilities
