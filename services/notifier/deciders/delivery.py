"""What becomes of a delivery: planned once, tried by a schedule, ended by success or by giving up.

An attempt is numbered, so that its result is recorded once however often it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec

from events.delivery import (
    Delivery,
    DeliveryAbandoned,
    DeliveryAttemptRefused,
    DeliveryPlanned,
    DeliverySucceeded,
)
from events.kernel import Event

IN_APP = "in_app"
WEBHOOK = "webhook"

# Seconds before each attempt, as Standard Webhooks proposes
# (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
_MINUTE, _HOUR = 60.0, 3600.0
SCHEDULE_SECONDS = (
    0.0,
    5.0,
    5 * _MINUTE,
    30 * _MINUTE,
    2 * _HOUR,
    5 * _HOUR,
    10 * _HOUR,
    14 * _HOUR,
    20 * _HOUR,
    24 * _HOUR,
)
# What is added at most, as a share of the delay, so that receivers are not met by everything at once.
JITTER = 0.1
# A receiver may ask for more time, but not for more than the schedule's longest delay.
LONGEST_RETRY_AFTER_SECONDS = SCHEDULE_SECONDS[-1]


class PlanDelivery(msgspec.Struct, frozen=True, kw_only=True):
    planned: DeliveryPlanned


class RecordArrival(msgspec.Struct, frozen=True, kw_only=True):
    attempt: int


class RecordRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt did not arrive; the receiver asked for ``retry_after_seconds`` or for nothing."""

    attempt: int
    detail: str
    now: datetime
    retry_after_seconds: float = 0.0


class RecordGone(msgspec.Struct, frozen=True, kw_only=True):
    """The receiver wants no more, or is no more."""

    attempt: int
    detail: str


DeliveryCommand = PlanDelivery | RecordArrival | RecordRefusal | RecordGone


def decide(state: Delivery, command: DeliveryCommand) -> tuple[Event, ...]:
    """The events that ``command`` leads to; none where it was decided before or comes too late."""
    return _DECISIONS[type(command)](state, command)


def _plan(state: Delivery, command: PlanDelivery) -> tuple[Event, ...]:
    if state.planned is not None:
        return ()
    if command.planned.channel == IN_APP:
        # The app shows what is planned: to plan it is to deliver it.
        return (command.planned, DeliverySucceeded(attempt=1))
    return (command.planned,)


def _arrived(state: Delivery, command: RecordArrival) -> tuple[Event, ...]:
    return (DeliverySucceeded(attempt=command.attempt),) if _is_next(state, command.attempt) else ()


def _refused(state: Delivery, command: RecordRefusal) -> tuple[Event, ...]:
    if not _is_next(state, command.attempt):
        return ()
    if command.attempt >= len(SCHEDULE_SECONDS):
        detail = f"given up after {command.attempt} attempts, the last one: {command.detail}"
        return (DeliveryAbandoned(attempts=command.attempt, detail=detail),)
    delay = _delay_seconds(state.id, command.attempt, command.retry_after_seconds)
    retry_at = command.now + timedelta(seconds=delay)
    return (DeliveryAttemptRefused(attempt=command.attempt, detail=command.detail, retry_at=retry_at),)


def _gone(state: Delivery, command: RecordGone) -> tuple[Event, ...]:
    if not _is_next(state, command.attempt):
        return ()
    return (DeliveryAbandoned(attempts=command.attempt, detail=command.detail),)


_DECISIONS: dict[type, Callable[[Delivery, Any], tuple[Event, ...]]] = {
    PlanDelivery: _plan,
    RecordArrival: _arrived,
    RecordRefusal: _refused,
    RecordGone: _gone,
}


def _is_next(state: Delivery, attempt: int) -> bool:
    return state.status == "pending" and attempt == state.attempts + 1


def _delay_seconds(id: str, failed_attempts: int, retry_after_seconds: float) -> float:
    digest = sha256(f"{id}:{failed_attempts}".encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    scheduled = SCHEDULE_SECONDS[failed_attempts] * (1 + JITTER * share)
    return max(scheduled, min(retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS))
