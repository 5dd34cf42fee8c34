"""Deliveries: what was told to whom, and whether it arrived."""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.delivery import DeliveryAbandoned, DeliveryAttemptRefused, DeliveryPlanned, DeliverySucceeded
from events.envelope import Envelope
from projections.projection import Projection, plain, replace


class DeliveryRow(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    rule: str = ""
    channel: str = ""
    receiver: str = ""
    event_sequence: int = 0
    event_type: str = ""
    subject_entity: str = ""
    subject_id: str = ""
    title: str = ""
    body: str = ""
    status: str = "pending"
    attempts: int = 0
    retry_at: datetime | None = None
    detail: str = ""
    occurred_at: datetime
    updated_at: datetime
    sequence: int = 0


def _planned(row: DeliveryRow, event: DeliveryPlanned, envelope: Envelope) -> DeliveryRow:
    return replace(
        row,
        rule=event.rule,
        channel=event.channel,
        receiver=event.receiver,
        event_sequence=event.sequence,
        event_type=event.event_type,
        subject_entity=event.subject_entity,
        subject_id=event.subject_id,
        title=event.title,
        body=event.body,
        occurred_at=event.occurred_at,
    )


def _attempt_refused(row: DeliveryRow, event: DeliveryAttemptRefused, envelope: Envelope) -> DeliveryRow:
    return replace(row, attempts=event.attempt, retry_at=event.retry_at, detail=event.detail)


def _succeeded(row: DeliveryRow, event: DeliverySucceeded, envelope: Envelope) -> DeliveryRow:
    return replace(row, status="delivered", attempts=event.attempt, retry_at=None, detail="")


def _abandoned(row: DeliveryRow, event: DeliveryAbandoned, envelope: Envelope) -> DeliveryRow:
    return replace(row, status="abandoned", attempts=event.attempts, retry_at=None, detail=event.detail)


DELIVERIES: Projection[DeliveryRow] = plain(
    "deliveries",
    DeliveryRow,
    lambda id, time: DeliveryRow(id=id, occurred_at=time, updated_at=time),
    {
        DeliveryPlanned: _planned,
        DeliveryAttemptRefused: _attempt_refused,
        DeliverySucceeded: _succeeded,
        DeliveryAbandoned: _abandoned,
    },
)
