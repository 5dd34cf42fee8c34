"""A decision as the API shows it, and the ids that may stand in an address."""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from events.catalogue import ENTITIES, AnyEvent
from events.content import Content
from events.envelope import Recorded
from services.gateway.answers import Problem

_content_decoder: msgspec.json.Decoder[Content] = msgspec.json.Decoder(Content)
_TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_=-]{0,254}\Z")


class DecisionView(msgspec.Struct, frozen=True):
    """``sequence`` is its place in the log; ``events`` are as they were written, each with its ``type``."""

    sequence: int
    id: str
    entity: str
    entity_id: str
    time: datetime
    actor: str
    correlation: str
    causation: str
    trace: str
    events: tuple[AnyEvent, ...]


def view(record: Recorded) -> DecisionView:
    envelope = record.envelope
    return DecisionView(
        sequence=record.sequence,
        id=envelope.id,
        entity=envelope.entity,
        entity_id=envelope.entity_id,
        time=envelope.time,
        actor=envelope.actor,
        correlation=envelope.correlation,
        causation=envelope.causation,
        trace=envelope.trace,
        events=envelope.events,
    )


def checked_id(id: str, what: str) -> str:
    """``id`` itself if it can be one token of a subject, else 404: nothing can have such an id."""
    if not _TOKEN.match(id):
        raise not_found(id, what)
    return id


def checked_entity(name: str) -> str:
    """The entity that ``name`` names, in either spelling (``pull-request``, ``pull_request``), else 404."""
    entity = name.replace("-", "_")
    if entity not in ENTITIES:
        detail = f"There is no kind of entity named {name!r}; there are {', '.join(ENTITIES)}."
        raise Problem(404, "not-found", detail)
    return entity


def not_found(id: str, what: str) -> Problem:
    return Problem(404, "not-found", f"There is no {what} {id!r}.")


def content_of(raw: msgspec.Raw) -> Content:
    """Content as a json column holds it."""
    return _content_decoder.decode(raw)
