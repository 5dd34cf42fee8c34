"""Who is told what: the rules, as pure functions of a decision and the settings.

There is one rule for the app, which tells what a person has to know or to do, and one for each webhook of the
settings, which tells the events it names, or those of the app where it names none. The id of a delivery follows from
the event and the rule, so that planning again plans the same.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import msgspec

from events.breaker import BREAKER, BreakerClosed, BreakerOpened
from events.catalogue import ENTITIES, EVENTS
from events.delivery import DELIVERY, DeliveryPlanned
from events.envelope import Recorded
from events.kernel import Event
from events.pull_request import PULL_REQUEST, PullRequestMerged, PullRequestMergeRefused, PullRequestOpened
from events.task import (
    ApprovalRequested,
    DivergenceReported,
    QuestionAsked,
    TaskBlocked,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
)
from events.task_state import TASK
from infra.settings import SettingsInvalid, Webhook
from services.notifier.deciders.delivery import IN_APP, WEBHOOK

APP_RULE = "app"
BODY_CHARACTERS = 2000

Words = tuple[str, str]

# What a person is told of each event: a title and a body, from the entity's id and the event.
WORDS: dict[type[Event], Callable[[str, Any], Words]] = {
    TaskCompleted: lambda id, event: (f"{id} is completed", event.summary),
    TaskFailed: lambda id, event: (f"{id} failed in {event.stage}", _cause(event)),
    TaskBlocked: lambda id, event: (f"{id} is blocked in {event.stage}", _cause(event)),
    TaskCancelled: lambda id, event: (f"{id} was cancelled", event.reason),
    QuestionAsked: lambda id, event: (f"{id} asks a question", event.question),
    DivergenceReported: lambda id, event: (
        f"{id} has diverged: what is to hold?",
        f"The {event.kind} is not as the log tells it: expected {event.expected}, found {event.found}.",
    ),
    BreakerOpened: lambda id, event: (
        f"{event.credential} failed {event.failures} times in a row: it is left alone until {event.until:%H:%M:%S} UTC",
        _cause(event),
    ),
    BreakerClosed: lambda id, event: (f"{event.credential} answers again", ""),
    ApprovalRequested: lambda id, event: (f"{id} waits for the approval of {event.stage}", ""),
    PullRequestOpened: lambda id, event: (f"Pull request {id} was opened: {event.title}", event.description),
    PullRequestMerged: lambda id, event: (f"Pull request {id} was merged", f"as {event.commit}"),
    PullRequestMergeRefused: lambda id, event: (f"Pull request {id} could not be merged", _cause(event)),
}

DEFAULT_EVENTS = frozenset(kind.__name__ for kind in WORDS)


class PlannedDelivery(msgspec.Struct, frozen=True):
    id: str
    event: DeliveryPlanned


def plan(record: Recorded, webhooks: Mapping[str, Webhook]) -> list[PlannedDelivery]:
    """The deliveries that a decision asks for, at most one for each of its events and each rule."""
    if record.envelope.entity == DELIVERY.name:
        return []  # To tell of deliveries would never end.
    planned = []
    for index, event in enumerate(record.envelope.events):
        name = type(event).__name__
        if name in DEFAULT_EVENTS:
            planned.append(_planned(record, index, APP_RULE, IN_APP, ""))
        for receiver, webhook in webhooks.items():
            if name in (webhook.events or DEFAULT_EVENTS):
                planned.append(_planned(record, index, f"webhooks.{receiver}", WEBHOOK, receiver))
    return planned


def entities(webhooks: Mapping[str, Webhook]) -> tuple[str, ...]:
    """The entities to follow: those of the app's rule, or all where a webhook asks for more than the app."""
    if any(set(webhook.events) - DEFAULT_EVENTS for webhook in webhooks.values()):
        return tuple(name for name in ENTITIES if name != DELIVERY.name)
    return (TASK.name, PULL_REQUEST.name, BREAKER.name)


def check(webhooks: Mapping[str, Webhook]) -> None:
    """Raises ``SettingsInvalid`` for a webhook that could never work, with what to write instead."""
    tellable = {name for name, kind in EVENTS.items() if not kind.__module__.endswith(".delivery")}
    for receiver, webhook in webhooks.items():
        if not _is_usable(webhook.url):
            message = f"webhooks.{receiver}.url must be an http or https address without a user in it."
            raise SettingsInvalid(message)
        for name in webhook.events:
            if name not in tellable:
                near = difflib.get_close_matches(name, tellable, n=1)
                hint = f" Did you mean {near[0]}?" if near else " docs/events.md lists them."
                message = f"webhooks.{receiver}.events: there is no event {name!r} to be told.{hint}"
                raise SettingsInvalid(message)


def _is_usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        reachable = bool(parts.hostname) and parts.port != 0
        return reachable and parts.scheme in ("http", "https") and "@" not in parts.netloc
    except ValueError:  # The port is no number, or the brackets of an address do not match.
        return False


def _planned(record: Recorded, index: int, rule: str, channel: str, receiver: str) -> PlannedDelivery:
    envelope, event = record.envelope, record.envelope.events[index]
    key = f"{record.sequence}:{index}:{rule}:{channel}"
    title, body = _words(envelope.entity, envelope.entity_id, event)
    return PlannedDelivery(
        id=sha256(key.encode()).hexdigest()[:24],
        event=DeliveryPlanned(
            rule=rule,
            channel=channel,
            receiver=receiver,
            sequence=record.sequence,
            event_type=type(event).__name__,
            subject_entity=envelope.entity,
            subject_id=envelope.entity_id,
            title=title,
            body=body if len(body) <= BODY_CHARACTERS else body[: BODY_CHARACTERS - 1] + "…",
            occurred_at=envelope.time,
        ),
    )


def _words(entity: str, id: str, event: Event) -> Words:
    words = WORDS.get(type(event))
    return words(id, event) if words is not None else (f"{entity} {id}: {type(event).__name__}", "")


def _cause(event: Any) -> str:
    return f"{event.cause}: {event.detail}" if event.detail else str(event.cause)
