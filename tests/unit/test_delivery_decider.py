"""The decider of deliveries: given, when, then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from events.delivery import (
    DELIVERY,
    DeliveryAbandoned,
    DeliveryAttemptRefused,
    DeliveryPlanned,
    DeliverySucceeded,
)
from events.kernel import Event
from services.notifier.deciders.delivery import (
    IN_APP,
    JITTER,
    SCHEDULE_SECONDS,
    WEBHOOK,
    DeliveryCommand,
    PlanDelivery,
    RecordArrival,
    RecordGone,
    RecordRefusal,
    decide,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def planned(channel: str = WEBHOOK) -> DeliveryPlanned:
    return DeliveryPlanned(
        rule="webhooks.ci",
        channel=channel,
        receiver="ci",
        sequence=7,
        event_type="TaskCompleted",
        subject_entity="task",
        subject_id="shop-7",
        title="shop-7 is completed",
        body="",
        occurred_at=NOW,
    )


def refused(attempt: int, retry_after_seconds: float = 0.0) -> RecordRefusal:
    return RecordRefusal(attempt=attempt, detail="answered 500", now=NOW, retry_after_seconds=retry_after_seconds)


def refusals(count: int) -> list[Event]:
    return [DeliveryAttemptRefused(attempt=number + 1, detail="answered 500", retry_at=NOW) for number in range(count)]


def when(given: list[Event], command: DeliveryCommand, id: str = "d1") -> tuple[Event, ...]:
    return decide(DELIVERY.fold(id, given), command)


def test_a_webhook_is_planned_first() -> None:
    """Planning a webhook leaves it pending."""
    assert when([], PlanDelivery(planned=planned())) == (planned(),)


def test_in_the_app_planning_is_delivering() -> None:
    """A delivery in the app is planned and delivered by one decision."""
    command = PlanDelivery(planned=planned(IN_APP))
    assert when([], command) == (planned(IN_APP), DeliverySucceeded(attempt=1))


@pytest.mark.parametrize("after", [[], refusals(2), [DeliverySucceeded(attempt=1)]])
def test_a_delivery_is_planned_once(after: list[Event]) -> None:
    """Planning again adds nothing, however far the delivery has come."""
    assert when([planned(), *after], PlanDelivery(planned=planned())) == ()


def test_an_arrival_ends_it() -> None:
    """The attempt that arrived is named."""
    assert when([planned(), *refusals(2)], RecordArrival(attempt=3)) == (DeliverySucceeded(attempt=3),)


@pytest.mark.parametrize("attempt", range(1, len(SCHEDULE_SECONDS)))
def test_a_refusal_is_tried_again_by_the_schedule(attempt: int) -> None:
    """The next attempt is due after the schedule's delay and a jitter of at most a tenth of it."""
    (event,) = when([planned(), *refusals(attempt - 1)], refused(attempt))
    assert isinstance(event, DeliveryAttemptRefused)
    delay = (event.retry_at - NOW).total_seconds()
    assert SCHEDULE_SECONDS[attempt] <= delay <= SCHEDULE_SECONDS[attempt] * (1 + JITTER)


def test_the_jitter_follows_from_the_id() -> None:
    """Deciding again gives the same time, another delivery another one."""
    first, again, other = (when([planned()], refused(1), id) for id in ("d1", "d1", "d2"))
    assert first == again != other


def test_retry_after_is_a_floor() -> None:
    """The receiver may ask for more time than the schedule gives, up to a day, but not for less."""
    for asked, least in ((3600.0, 3600.0), (1.0, 5.0), (1e9, 86_400.0)):
        (event,) = when([planned()], refused(1, asked))
        assert isinstance(event, DeliveryAttemptRefused)
        assert least <= (event.retry_at - NOW).total_seconds() <= least * (1 + JITTER)


def test_after_the_last_attempt_it_is_abandoned() -> None:
    """The tenth refusal is the last one."""
    last = len(SCHEDULE_SECONDS)
    (event,) = when([planned(), *refusals(last - 1)], refused(last))
    assert isinstance(event, DeliveryAbandoned)
    assert (event.attempts, "answered 500" in event.detail) == (10, True)


def test_a_receiver_that_is_gone_ends_it() -> None:
    """No further attempt is made."""
    command = RecordGone(attempt=1, detail="410 Gone")
    assert when([planned()], command) == (DeliveryAbandoned(attempts=1, detail="410 Gone"),)


@pytest.mark.parametrize(
    "command", [RecordArrival(attempt=1), refused(1), RecordGone(attempt=1, detail="x"), RecordArrival(attempt=4)]
)
@pytest.mark.parametrize(
    "given",
    [
        [],
        [planned(), *refusals(1)],
        [planned(), DeliverySucceeded(attempt=1)],
        [planned(), DeliveryAbandoned(attempts=1, detail="x")],
    ],
)
def test_a_result_counts_once(given: list[Event], command: DeliveryCommand) -> None:
    """The result of an attempt that was recorded before, of one that was not due, or after the end adds nothing."""
    assert when(given, command) == ()


def test_a_webhook_has_three_days_to_come_back() -> None:
    """A receiver that is away for a weekend loses nothing."""
    assert timedelta(days=3) < timedelta(seconds=sum(SCHEDULE_SECONDS)) < timedelta(days=4)
