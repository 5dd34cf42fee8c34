"""Planning: every decision of the log, in order, becomes the deliveries that the rules ask for.

The position is derivable: the id of a delivery follows from the event and the rule, and it is planned at revision 0,
so that reading a part of the log again plans nothing twice. Where no position was kept, reading begins at the event
that was last planned for; in a log without any delivery it begins at the end, so that nobody is told old news.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog

from events.delivery import DELIVERY, Delivery
from events.envelope import Envelope, Recorded
from infra import semantics, telemetry
from infra.entities import Cause, Decision, EntityStore
from infra.ports import Clock, EventLog, Following
from infra.settings import Webhook
from services.notifier import policy
from services.notifier.deciders import delivery as decider
from services.notifier.ports import PositionStore
from services.notifier.recording import until_recorded

ACTOR = "notifier"
KEEP_POSITION_SECONDS = 5.0

log = structlog.get_logger()

# Given a delivery that is planned, by now or before, and what planned it.
OnPlanned = Callable[[Delivery, Cause], None]


class Planner:
    """Reads the log and plans; ``on_planned`` learns of every delivery that is planned, of some more than once."""

    def __init__(
        self,
        events: EventLog,
        store: EntityStore[Delivery],
        clock: Clock,
        webhooks: Mapping[str, Webhook],
        positions: PositionStore,
        on_planned: OnPlanned,
    ) -> None:
        self._events = events
        self._store = store
        self._clock = clock
        self._webhooks = webhooks
        self._positions = positions
        self._on_planned = on_planned
        self._queue: asyncio.Queue[Recorded] = asyncio.Queue()
        self._seen = 0
        self._planned = 0
        self._kept = -1
        self._created_at: datetime | None = None
        self._following: Following | None = None

    async def start(self, last_planned: int | None) -> None:
        """Begin to follow the log; ``last_planned`` is the sequence of the last event that was planned for."""
        self._created_at = await self._events.created_at()
        self._seen = self._planned = await self._first_position(self._created_at, last_planned)
        self._keep_position()
        self._following = await self._events.follow(
            self._receive, after=self._planned, entities=policy.entities(self._webhooks)
        )

    async def _first_position(self, created_at: datetime, last_planned: int | None) -> int:
        end = await self._events.last_sequence()
        kept = self._positions.read(created_at)
        if kept is not None and kept <= end:
            return kept
        # Again from the event itself: the process may have ended between two rules of it.
        return end if last_planned is None else last_planned - 1

    def _receive(self, record: Recorded) -> None:
        if policy.plan(record, self._webhooks):
            self._queue.put_nowait(record)
        elif self._planned == self._seen:
            self._planned = record.sequence
        self._seen = record.sequence

    async def plan_for_ever(self) -> None:
        """Plan what was read, in order. Goes on while the log is away."""
        while True:
            record = await self._queue.get()
            for planned in policy.plan(record, self._webhooks):
                await self._plan(planned, record.envelope)
            self._planned = self._seen if self._queue.empty() else record.sequence

    async def _plan(self, planned: policy.PlannedDelivery, envelope: Envelope) -> None:
        cause = Cause(
            id=f"{planned.id}-planned",
            actor=ACTOR,
            correlation=envelope.correlation or envelope.id,
            causation=envelope.id,
            trace=envelope.trace,
        )
        command = decider.PlanDelivery(planned=planned.event)

        async def record() -> Decision[Delivery]:
            if await self._events.last(DELIVERY.name, planned.id) is None:
                self._store.apply(planned.id, ())  # It is new, as a rule: there is nothing to be loaded.
            return await self._store.decide(planned.id, cause, lambda state: decider.decide(state, command))

        attributes = {semantics.ENTITY_ID: planned.id}
        with telemetry.span("plan delivery", trace=envelope.trace, attributes=attributes):
            decision = await until_recorded(record, self._clock)
        if decision.events:
            log.info("delivery planned", delivery=planned.id, rule=planned.event.rule, about=planned.event.subject_id)
        # Without events too: the append may have been made by a try whose answer was lost.
        self._on_planned(decision.state, cause)

    async def keep_position_for_ever(self) -> None:
        while True:
            await self._clock.sleep(KEEP_POSITION_SECONDS)
            self._keep_position()

    def _keep_position(self) -> None:
        if self._created_at is not None and self._planned != self._kept:
            self._positions.write(self._created_at, self._planned)
            self._kept = self._planned

    async def close(self) -> None:
        if self._following is not None:
            await self._following.close()
        self._keep_position()
