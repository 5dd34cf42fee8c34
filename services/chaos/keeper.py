"""Keeps experiments, faults and the log in agreement.

At start every experiment of this host that has no verdict is gone on with. From then on the engine's faults are
watched (``watch``) with what the log says of them: one that it does not explain, or whose time is over, is undone. When
chaos is halted, everything under way is called off.

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

from events.chaos import CHAOS, HALT, Chaos, ChaosCapabilitiesFound, ChaosHalted, ChaosResumed, host_entity
from events.envelope import Recorded
from events.environment import (
    ENVIRONMENT,
    EnvironmentLost,
    EnvironmentMoved,
    EnvironmentRemoved,
    ToolCallFailed,
    ToolCallInterrupted,
)
from events.errors import CairnError
from events.experiment import (
    COMPOSE_TARGET,
    EXPERIMENT,
    AbortRequested,
    Experiment,
    ExperimentRequested,
    Verdict,
    is_experiment_of_call,
)
from infra.entities import Cause, EntityStore
from infra.ports import EventLog, Following
from infra.snapshots import SnapshotFile
from services.chaos import policy
from services.chaos.deciders import chaos as chaos_decider
from services.chaos.deciders import experiment as decider
from services.chaos.ports import Undone
from services.chaos.runner import ACTOR, Plumbing, Runner, document_of
from services.chaos.watch import Watch

logger = structlog.get_logger()

CAPABILITIES_SECONDS = 10.0
AWAY_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 600.0


NOT_WAITED_FOR = AbortRequested(cause="asked", detail="the call that asked for it was ended")
NO_TARGET = AbortRequested(cause="asked", detail="its environment is gone")


class UnderWay(msgspec.Struct):
    """The experiments of this host that were requested and have no verdict, each with its target."""

    targets: dict[str, str] = {}


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
        self._under_way: dict[str, str] = {}
        self._sequence = 0
        self._told: ChaosCapabilitiesFound | None = None
        self._halted: AbortRequested | None = None
        self._calling_off: set[asyncio.Task[None]] = set()
        self._watch = Watch(plumbing.faults, plumbing.clock, known=self._known, undone=self._undone)

    async def start(self) -> Following:
        """Go on with everything that is under way, then hear of what comes."""
        last = await self._log.last_sequence()
        await self._fold(last)
        for id in list(self._under_way):
            await self._resume(id)
        halted = (await self._chaos.load(HALT))[0].halted
        if halted is not None:
            self._halted = _halt(halted)
            await self._call_off(list(self._under_way), self._halted)
        entities = (EXPERIMENT.name, CHAOS.name, ENVIRONMENT.name)
        return await self._log.follow(self._deliver, after=last, entities=entities)

    async def run(self) -> None:
        """For ever."""
        await asyncio.gather(self._watch.run(), self._tell_capabilities())

    async def _fold(self, last: int) -> None:
        created_at = await self._log.created_at()
        known = self._snapshot.load(created_at=created_at, last_sequence=last) if self._snapshot is not None else None
        after = 0
        if known is not None:
            self._under_way, after = dict(known[0].targets), known[1]
        async for records in self._log.replay(after=after, until=last, entities=(EXPERIMENT.name,)):
            for record in records:
                self._note(record)
        self._sequence = max(last, after)
        await self._save()

    async def _save(self) -> None:
        if self._snapshot is not None:
            created_at = await self._log.created_at()
            self._snapshot.save(UnderWay(dict(self._under_way)), created_at=created_at, sequence=self._sequence)

    async def stop(self) -> None:
        with contextlib.suppress(CairnError):
            await self._save()

    def _note(self, record: Recorded) -> None:
        id = record.envelope.entity_id
        for event in record.envelope.events:
            if isinstance(event, ExperimentRequested) and event.host == self._plumbing.host and not event.dry_run:
                self._under_way[id] = event.target
            elif isinstance(event, Verdict):
                self._under_way.pop(id, None)
        self._sequence = record.sequence

    def _deliver(self, record: Recorded) -> None:
        if record.envelope.entity == EXPERIMENT.name:
            self._note(record)
        for event in record.envelope.events:
            match event:
                case ChaosHalted():
                    self._halted = _halt(event)
                    self._begin_calling_off(list(self._under_way), self._halted)
                case ChaosResumed():
                    self._halted = None
                case ExperimentRequested() if self._halted is not None:
                    # It was allowed just before the halt.
                    self._begin_calling_off([record.envelope.entity_id], self._halted)
                case ToolCallInterrupted() | ToolCallFailed():
                    of_call = [id for id in self._under_way if is_experiment_of_call(id, event.call_id)]
                    self._begin_calling_off(of_call, NOT_WAITED_FOR)
                case EnvironmentRemoved() | EnvironmentLost() | EnvironmentMoved():
                    gone = record.envelope.entity_id
                    self._begin_calling_off([id for id, of in self._under_way.items() if of == gone], NO_TARGET)
                case _:
                    pass

    def _begin_calling_off(self, ids: list[str], why: AbortRequested) -> None:
        under_way = [id for id in ids if id in self._under_way]
        if under_way:
            task = asyncio.create_task(self._call_off(under_way, why))
            self._calling_off.add(task)
            task.add_done_callback(self._calling_off.discard)

    async def _resume(self, id: str) -> None:
        state, _ = await self._plumbing.experiments.load(id)
        if state.active and not self._runner.works_on(id):
            document = document_of(state)
            cause = Cause(id=f"{id}-resumed-{uuid.uuid4().hex[:12]}", actor=ACTOR)
            decision = await self._plumbing.experiments.decide(
                id, cause, lambda state: decider.resume(state, document, self._plumbing.host)
            )
            why = await self._why_not_wanted(decision.state)
            if why is not None:
                await self._call_off([id], why)
            self._runner.begin((await self._plumbing.experiments.load(id))[0], cause)
            logger.warning("experiment resumed", experiment=id, status=decision.state.status)

    async def _why_not_wanted(self, state: Experiment) -> AbortRequested | None:
        """What was not heard while nobody was here."""
        requested = state.requested
        assert requested is not None
        if requested.target.startswith(COMPOSE_TARGET):
            return None
        records = await self._log.load(ENVIRONMENT.name, requested.target)
        events = [event for record in records for event in record.envelope.events]
        environment = ENVIRONMENT.fold(requested.target, events)
        if not environment.stands:
            return NO_TARGET
        over = environment.ended.get(requested.call_id) in ("failed", "interrupted")
        return NOT_WAITED_FOR if over else None

    async def _call_off(self, ids: list[str], why: AbortRequested) -> None:
        for id in ids:
            cause = Cause(id=f"{id}-called-off-{uuid.uuid4().hex[:12]}", actor=ACTOR)
            while True:
                try:
                    await self._plumbing.experiments.load(id)
                    decision = await self._plumbing.experiments.decide(
                        id, cause, lambda state: decider.call_off(state, why.cause, why.detail, by=why.by)
                    )
                except CairnError as error:
                    logger.warning("called off later", experiment=id, error=str(error))
                    await self._plumbing.clock.sleep(1.0)
                else:
                    self._runner.wake(id, decision.state)
                    break

    # ---- the engine

    def _known(self) -> set[str]:
        return self._runner.intended()

    async def _undone(self, undone: Undone, reason: str) -> None:
        """The watch undid a fault, or could not. Where its experiment goes on, that finds out by itself too."""
        experiment_id = policy.experiment_of(undone.fault_id)
        try:
            state, _ = await self._plumbing.experiments.load(experiment_id)
            if undone.fault_id in state.open_faults:
                await self._runner.record_undone(experiment_id, undone, "ended")
        except CairnError as error:
            logger.warning("undoing not recorded", fault=undone.fault_id, reason=reason, error=str(error))

    async def _tell_capabilities(self) -> None:
        """In the log where they have changed: whoever asks what can be done here reads it there. Not at once: finding
        out takes a container, and many a process does not live that long. For ever."""
        seconds = CAPABILITIES_SECONDS
        while True:
            await self._plumbing.clock.sleep(seconds)
            try:
                possible = await self._find_capabilities()
            except CairnError as error:
                logger.warning("capabilities not told", error=str(error))
                possible = False
            # Where nothing is possible, the engine may not be there yet.
            seconds = LOOK_AGAIN_SECONDS if possible else AWAY_SECONDS

    async def _find_capabilities(self) -> bool:
        """Whether anything can be done here at all."""
        found = ChaosCapabilitiesFound(
            host=self._plumbing.host, faults=dict(await self._plumbing.faults.capabilities())
        )
        possible = not all(found.faults.values())
        if found == self._told:
            return possible
        id = host_entity(self._plumbing.host)
        cause = Cause(id=f"{id}-{uuid.uuid4().hex[:12]}", actor=ACTOR)
        await self._chaos.load(id)
        await self._chaos.decide(id, cause, lambda state: chaos_decider.find_capabilities(state, found))
        self._told = found
        return possible


def _halt(event: ChaosHalted) -> AbortRequested:
    return AbortRequested(cause="halted", detail=event.reason or "chaos is halted", by=event.by)
