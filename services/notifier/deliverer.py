"""Delivering: what is planned and not ended is tried when it is due, each receiver on its own.

What is pending, and when it is due, follows from the log alone: it is folded at the start, and nothing is lost with
the process. A receiver that is slow or away delays only what is for itself. The result of an attempt is recorded
before the next one of that receiver begins. A process that dies between the receiver's answer and the record tries
again with the same webhook-id, by which the receiver tells a repetition.

One notifier is meant to run for a tenant: a second one would attempt the same deliveries, though each result is
recorded once.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import structlog

from events.delivery import DELIVERY, Delivery, DeliveryAbandoned, DeliveryPlanned
from infra import semantics, telemetry
from infra.entities import Cause, EntityStore
from infra.ports import Clock, EventLog
from services.notifier.deciders import delivery as decider
from services.notifier.ports import Answer, Arrived, Gone, Refused, Sender
from services.notifier.recording import until_recorded

CLOSE_SECONDS = 3.0
# The clock may be set, or stand still with the host: look again this often.
LONGEST_WAIT_SECONDS = 60.0

log = structlog.get_logger()


class Pending(msgspec.Struct, frozen=True):
    """A delivery that is still to be made, and what led to it."""

    delivery: Delivery
    cause: Cause

    @property
    def due_at(self) -> datetime:
        assert self.delivery.planned is not None, "only what is planned is pending"
        return self.delivery.retry_at or self.delivery.planned.occurred_at


async def read_pending(events: EventLog) -> tuple[list[Pending], int | None]:
    """The deliveries of the log that are still to be made, and the sequence of the event last planned for, if any."""
    pending: dict[str, Pending] = {}
    last_planned: int | None = None
    async for batch in events.replay(entities=(DELIVERY.name,)):
        for record in batch:
            envelope = record.envelope
            known = pending.pop(envelope.entity_id, None)
            state = known.delivery if known is not None else DELIVERY.initial(envelope.entity_id)
            for event in envelope.events:
                state = DELIVERY.evolve(state, event)
            if known is None and state.planned is not None:
                last_planned = max(last_planned or 0, state.planned.sequence)
            if state.status == "pending":
                cause = known.cause if known is not None else _cause_of(envelope)
                pending[state.id] = Pending(state, cause)
    return list(pending.values()), last_planned


def _cause_of(envelope: Any) -> Cause:
    return Cause(
        id=envelope.id,
        actor=envelope.actor,
        correlation=envelope.correlation,
        causation=envelope.causation,
        trace=envelope.trace,
    )


class Deliverer:
    """One lane for each receiver; ``on_lane`` is given the task of each, to watch over it."""

    def __init__(
        self,
        store: EntityStore[Delivery],
        sender: Sender,
        clock: Clock,
        on_lane: Callable[[asyncio.Task[None]], object],
    ) -> None:
        self._store = store
        self._sender = sender
        self._clock = clock
        self._on_lane = on_lane
        self._lanes: dict[str, _Lane] = {}
        self._held: set[str] = set()

    def take(self, delivery: Delivery, cause: Cause) -> None:
        """Deliver it when it is due; one that has ended, or is held already, is left alone."""
        if delivery.planned is None or delivery.status != "pending" or delivery.id in self._held:
            return
        self._held.add(delivery.id)
        receiver = delivery.planned.receiver
        lane = self._lanes.get(receiver)
        if lane is None:
            lane = self._lanes[receiver] = _Lane(self._clock, self._attempt)
            self._on_lane(lane.task)
        lane.add(Pending(delivery, cause))

    async def _attempt(self, pending: Pending) -> Pending | None:
        """Try once and record what came of it; what is to be tried again, or None."""
        delivery, planned = pending.delivery, pending.delivery.planned
        assert planned is not None, "only what is planned is pending"
        number = delivery.attempts + 1
        attributes = {semantics.ENTITY_ID: delivery.id, semantics.MESSAGING_DESTINATION_NAME: planned.receiver}
        with telemetry.span("deliver", kind=semantics.CLIENT, trace=pending.cause.trace, attributes=attributes) as span:
            answer = await self._answer(delivery.id, planned)
            if not isinstance(answer, Arrived):
                span.fail(answer.detail)
            cause = Cause(
                id=f"{delivery.id}-attempt-{number}",
                actor=pending.cause.actor,
                correlation=pending.cause.correlation,
                causation=pending.cause.id,
                trace=span.trace,
            )
            command = _command(number, answer, self._clock.now())
            decision = await until_recorded(
                lambda: self._store.decide(delivery.id, cause, lambda state: decider.decide(state, command)),
                self._clock,
            )
        _tell(decision.state, answer)
        if decision.state.status == "pending":
            return Pending(decision.state, pending.cause)
        self._held.discard(delivery.id)
        return None

    async def _answer(self, id: str, planned: DeliveryPlanned) -> Answer:
        try:
            return await self._sender.send(id, planned)
        except Exception as error:  # A bug met by one delivery must not silence all others; the schedule bounds it.
            log.error("an attempt failed by a bug", delivery=id, exc_info=error)
            return Refused(f"the attempt failed: {type(error).__name__}: {error}")

    async def close(self) -> None:
        """Let attempts under way end for a moment; one that is cut off is made again by the next process."""
        tasks = [lane.close() for lane in self._lanes.values()]
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _Lane:
    """The deliveries of one receiver, one at a time, the one that is due longest first."""

    def __init__(self, clock: Clock, attempt: Callable[[Pending], Any]) -> None:
        self._clock = clock
        self._attempt = attempt
        self._waiting: list[tuple[datetime, int, str, Pending]] = []
        self._changed = asyncio.Event()
        self._closing = False
        self.task: asyncio.Task[None] = asyncio.create_task(self._run())

    def add(self, pending: Pending) -> None:
        sequence = pending.delivery.planned.sequence if pending.delivery.planned is not None else 0
        heapq.heappush(self._waiting, (pending.due_at, sequence, pending.delivery.id, pending))
        self._changed.set()

    def close(self) -> asyncio.Task[None]:
        """Begin no further attempt; the task that is answered ends with the attempt under way."""
        self._closing = True
        self._changed.set()
        return self.task

    async def _run(self) -> None:
        while not self._closing:
            if not self._waiting:
                await self._wait(None)
            elif (seconds := (self._waiting[0][0] - self._clock.now()).total_seconds()) > 0:
                await self._wait(seconds)
            else:
                *_, pending = heapq.heappop(self._waiting)
                again = await self._attempt(pending)
                if again is not None:
                    self.add(again)

    async def _wait(self, seconds: float | None) -> None:
        """Until the time is over, or something happened to the lane."""
        waits: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._changed.wait())}
        if seconds is not None:
            waits.add(asyncio.ensure_future(self._clock.sleep(min(seconds, LONGEST_WAIT_SECONDS))))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._changed.clear()


def _command(attempt: int, answer: Answer, now: datetime) -> decider.DeliveryCommand:
    match answer:
        case Arrived():
            return decider.RecordArrival(attempt=attempt)
        case Gone(detail):
            return decider.RecordGone(attempt=attempt, detail=detail)
        case Refused(detail, retry_after_seconds):
            return decider.RecordRefusal(
                attempt=attempt, detail=detail, now=now, retry_after_seconds=retry_after_seconds
            )


def _tell(delivery: Delivery, answer: Answer) -> None:
    receiver = delivery.planned.receiver if delivery.planned is not None else ""
    told = log.bind(delivery=delivery.id, receiver=receiver, attempts=delivery.attempts)
    if isinstance(answer, Arrived):
        told.info("delivered")
    elif isinstance(delivery.ended, DeliveryAbandoned):
        told.warning("delivery abandoned", detail=delivery.ended.detail)
    else:
        told.warning("delivery refused", detail=answer.detail, retry_at=delivery.retry_at)
