"""Entities: load with revision, decide, append at that revision, decide again where somebody was faster.

Every writer of an entity goes through ``EntityStore.decide``. It keeps the states of the entities that were used
last, so that the only writer of an entity costs one append a decision; a conflict throws the kept state away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from events.envelope import CommandEnvelope, Envelope, Recorded
from events.errors import RevisionConflict
from events.kernel import Entity, Event
from infra.metrics import count_events
from infra.ports import Clock, EventLog
from infra.telemetry import current_trace

ATTEMPTS = 5
KEPT_STATES = 10_000

S = TypeVar("S")


class Cause(msgspec.Struct, frozen=True):
    """Why a decision is made: its id (a repeat with the same id appends once), who asked, what led to it."""

    id: str
    actor: str = ""
    correlation: str = ""
    causation: str = ""
    trace: str = ""

    @classmethod
    def of(cls, envelope: CommandEnvelope, suffix: str = "") -> Cause:
        return cls(
            id=envelope.id + suffix,
            actor=envelope.actor,
            correlation=envelope.correlation or envelope.id,
            causation=envelope.id,
            trace=current_trace() or envelope.trace,
        )


class Decision(msgspec.Struct, Generic[S], frozen=True):
    """The state after a decision, its revision, and the events it appended (none where it was made already)."""

    state: S
    revision: int
    events: tuple[Event, ...]


class EntityStore(Generic[S]):
    def __init__(self, log: EventLog, entity: Entity[S], clock: Clock) -> None:
        self._log = log
        self._entity = entity
        self._clock = clock
        self._kept: OrderedDict[str, tuple[S, int]] = OrderedDict()

    async def load(self, id: str) -> tuple[S, int]:
        """The present state and revision: what is kept, brought up to date with the log."""
        # What is kept may be thrown away meanwhile: what is read then must not be folded onto nothing.
        known = self._kept.get(id) or (self._entity.initial(id), 0)
        return self._fold(id, known, await self._log.load(self._entity.name, id, after=known[1]))

    def peek(self, id: str) -> tuple[S, int] | None:
        """The kept state, which is at or behind the log; None where nothing is kept."""
        return self._kept.get(id)

    def apply(self, id: str, records: Sequence[Recorded]) -> tuple[S, int]:
        """Fold records that were read elsewhere (those already folded are skipped)."""
        return self._fold(id, self._kept.get(id) or (self._entity.initial(id), 0), records)

    def _fold(self, id: str, known: tuple[S, int], records: Sequence[Recorded]) -> tuple[S, int]:
        state, revision = known
        for record in records:
            if record.sequence > revision:
                for event in record.envelope.events:
                    state = self._entity.evolve(state, event)
                revision = record.sequence
        self._keep(id, state, revision)
        return state, revision

    async def decide(
        self, id: str, cause: Cause, decide: Callable[[S], Sequence[Event]], *, last_of_kind: int | None = None
    ) -> Decision[S]:
        """Append what ``decide`` answers for the present state, at its revision.

        ``decide`` may run several times, must be pure, and may raise ``CommandRejected``. Raises
        ``RevisionConflict`` after five lost races, ``Transient`` where the log cannot be reached.

        A decision that stands on more than this entity names ``last_of_kind``, the last decision about any of its
        kind that it knows of: ``RevisionConflict`` where there is a newer one, since all has to be decided again then.
        """
        kept = self._kept.get(id)
        state, revision = kept if kept is not None else await self.load(id)
        of_kind = last_of_kind is not None
        for _ in range(1 if of_kind else ATTEMPTS):
            events = tuple(decide(state))
            if not events:
                return Decision(state, revision, ())
            envelope = Envelope(
                id=cause.id,
                tenant=self._log.tenant,
                entity=self._entity.name,
                entity_id=id,
                time=self._clock.now(),
                events=events,
                actor=cause.actor,
                correlation=cause.correlation,
                causation=cause.causation,
                trace=cause.trace,
            )
            try:
                expected = revision if last_of_kind is None else last_of_kind
                appended = await self._log.append(envelope, expected=expected, of_kind=of_kind)
            except RevisionConflict:
                state, revision = await self.load(id)
            except BaseException:
                # It may be in the log without our knowing: what is kept is not to be trusted.
                self._kept.pop(id, None)
                raise
            else:
                count_events(self._entity.name, events)
                for event in events:
                    state = self._entity.evolve(state, event)
                self._keep(id, state, appended)
                return Decision(state, appended, events)
        message = f"{self._entity.name} {id} was changed by others meanwhile"
        raise RevisionConflict(message)

    def put(self, id: str, state: S, revision: int) -> None:
        """Begin with a state that a snapshot tells of; what came since is to be applied before anything is decided."""
        self._keep(id, state, revision)

    def forget(self, id: str) -> None:
        self._kept.pop(id, None)

    def _keep(self, id: str, state: S, revision: int) -> None:
        kept = self._kept.get(id)
        if kept is not None and kept[1] > revision:
            return
        self._kept[id] = (state, revision)
        self._kept.move_to_end(id)
        if len(self._kept) > KEPT_STATES:
            self._kept.popitem(last=False)
