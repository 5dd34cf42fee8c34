"""Bugs on purpose: services with one rule broken each, in which the checkers must find it."""

from __future__ import annotations

import asyncio

from events.envelope import Envelope, Recorded
from events.environment import ENVIRONMENT, CallEnd
from events.errors import RevisionConflict
from events.kernel import replace
from events.run import RUN, RunResumed
from projections.fold import Changes
from tests.simulation.network import Process
from tests.simulation.ports import Ports, ProcessLog
from tests.simulation.projecting import Store
from tests.simulation.simulation import Simulation

STORED_AFTER_SECONDS = 0.05


class _AcknowledgesFirst(ProcessLog):
    """Answers at once, and stores a little later, if the process lives for so long."""

    async def append(self, envelope: Envelope, *, expected: int, of_kind: bool = False) -> int:
        sequence = await self._log.last_sequence() + 1
        self._process.network.acknowledged.append((sequence, envelope.id))
        asyncio.get_running_loop().create_task(self._store(envelope, expected, of_kind))
        await self._process.awake()
        return sequence

    async def _store(self, envelope: Envelope, expected: int, of_kind: bool) -> None:
        await asyncio.sleep(STORED_AFTER_SECONDS)
        await self._process.awake()
        try:
            await self._log.append(envelope, expected=expected, of_kind=of_kind)
        except RevisionConflict:
            return


class _AppendsAnyhow(ProcessLog):
    """Appends at whatever revision the entity has."""

    async def append(self, envelope: Envelope, *, expected: int, of_kind: bool = False) -> int:
        last = await self._log.last(envelope.entity, envelope.entity_id)
        return await super().append(envelope, expected=last.sequence if last is not None else 0)


class _ForgetsEnds(ProcessLog):
    """What is read of environments lacks the ends of calls."""

    async def load(self, entity: str, id: str, *, after: int = 0) -> list[Recorded]:
        records = await super().load(entity, id, after=after)
        return [_without_ends(record) for record in records] if entity == ENVIRONMENT.name else records


def _without_ends(record: Recorded) -> Recorded:
    kept = tuple(event for event in record.envelope.events if not isinstance(event, CallEnd))
    return Recorded(record.sequence, replace(record.envelope, events=kept))


class _HidesNewerEpochs(ProcessLog):
    """Who holds a run, and reads what others appended to it since, does not learn that they hold it now."""

    async def load(self, entity: str, id: str, *, after: int = 0) -> list[Recorded]:
        records = await super().load(entity, id, after=after)
        return [_without_epochs(record) for record in records] if entity == RUN.name and after else records


def _without_epochs(record: Recorded) -> Recorded:
    kept = tuple(event for event in record.envelope.events if not isinstance(event, RunResumed))
    return Recorded(record.sequence, replace(record.envelope, events=kept))


class _PlantedPorts(Ports):
    def __init__(self, life: Process, log: type[ProcessLog]) -> None:
        super().__init__(life)
        self.log = log(life, life.network.memory.log)


class AcknowledgedBeforeAppended(Simulation):
    def ports(self, life: Process) -> Ports:
        return _PlantedPorts(life, _AcknowledgesFirst)


class NoExpectedRevision(Simulation):
    def ports(self, life: Process) -> Ports:
        return _PlantedPorts(life, _AppendsAnyhow)


class FinishedCallsForgotten(Simulation):
    def ports(self, life: Process) -> Ports:
        return _PlantedPorts(life, _ForgetsEnds) if life.name.startswith("environment_manager") else Ports(life)


class NotFenced(Simulation):
    def ports(self, life: Process) -> Ports:
        return _PlantedPorts(life, _HidesNewerEpochs) if life.name.startswith("agent_runner") else Ports(life)


class _WritesRowsFirst(Store):
    """Rows and checkpoint in two steps."""

    async def commit(self, changes: Changes) -> None:
        self._database.tables.take(changes)
        await asyncio.sleep(STORED_AFTER_SECONDS)
        await self._process.awake()
        self._database.sequence = changes.sequence


class CheckpointApart(Simulation):
    def store(self, life: Process) -> Store:
        return _WritesRowsFirst(self.database, life)


# Each with the checkers of which one at least must find it.
PLANTS: dict[type[Simulation], tuple[str, ...]] = {
    AcknowledgedBeforeAppended: ("what_was_acknowledged_is_there",),
    NoExpectedRevision: ("one_epoch_at_a_time", "every_decision_is_made_once"),
    NotFenced: ("one_epoch_at_a_time",),
    CheckpointApart: ("read_models_are_the_fold",),
    FinishedCallsForgotten: ("calls_are_repeated_by_their_policy_only",),
}
