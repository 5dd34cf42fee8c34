"""A delivery: one event told to one receiver through one channel, once. Owned by the notifier."""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.kernel import Entity, Event, evolver, replace


class DeliveryPlanned(Event, frozen=True, kw_only=True):
    """``channel`` is ``in_app`` or ``webhook``; ``receiver`` a webhook's name; ``subject_*`` what it is about."""

    rule: str
    channel: str
    receiver: str
    sequence: int
    event_type: str
    subject_entity: str
    subject_id: str
    title: str
    body: str
    occurred_at: datetime


class DeliveryAttemptRefused(Event, frozen=True, kw_only=True):
    """An attempt that did not arrive. ``retry_at`` is when the next one is due."""

    attempt: int
    detail: str
    retry_at: datetime


class DeliverySucceeded(Event, frozen=True, kw_only=True):
    attempt: int


class DeliveryAbandoned(Event, frozen=True, kw_only=True):
    """It will not be tried again; ``detail`` says why."""

    attempts: int
    detail: str


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    planned: DeliveryPlanned | None = None
    attempts: int = 0
    retry_at: datetime | None = None
    ended: DeliverySucceeded | DeliveryAbandoned | None = None

    @property
    def status(self) -> str:
        """absent, pending, delivered or abandoned."""
        if self.ended is not None:
            return "delivered" if isinstance(self.ended, DeliverySucceeded) else "abandoned"
        return "absent" if self.planned is None else "pending"


DELIVERY: Entity[Delivery] = Entity(
    name="delivery",
    initial=lambda id: Delivery(id=id),
    evolve=evolver(
        {
            DeliveryPlanned: lambda state, event: replace(state, planned=event),
            DeliveryAttemptRefused: lambda state, event: replace(
                state, attempts=event.attempt, retry_at=event.retry_at
            ),
            DeliverySucceeded: lambda state, event: replace(state, attempts=event.attempt, ended=event),
            DeliveryAbandoned: lambda state, event: replace(state, attempts=event.attempts, ended=event),
        }
    ),
)
