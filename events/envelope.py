"""What stands around every message: who said it, when, in answer to what.

One decision is one JetStream message: an ``Envelope`` with the tuple of events that the decision produced, so a
decision is atomic. A command travels alone in a ``CommandEnvelope``.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.catalogue import AnyCommand, AnyEvent

SCHEMA = 1


class Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """A decision. ``id`` is the decision id, unique and derived from the command, so that a repeat is recognised.

    ``correlation`` is the id of the command at the start of the chain, ``causation`` the id of the message that
    led directly to this one, ``trace`` a W3C ``traceparent`` (https://www.w3.org/TR/trace-context/).
    """

    id: str
    tenant: str
    entity: str
    entity_id: str
    time: datetime
    events: tuple[AnyEvent, ...]
    actor: str = ""
    correlation: str = ""
    causation: str = ""
    trace: str = ""
    schema: int = SCHEMA


class CommandEnvelope(msgspec.Struct, frozen=True, omit_defaults=True):
    """A command under way. ``reply`` is the inbox on which its sender waits for the outcome, or empty."""

    id: str
    tenant: str
    entity: str
    entity_id: str
    time: datetime
    command: AnyCommand
    actor: str = ""
    correlation: str = ""
    causation: str = ""
    trace: str = ""
    reply: str = ""
    schema: int = SCHEMA


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a command: accepted (``sequence`` is the entity's revision afterwards) or rejected.

    ``content`` is the digest of what was asked for, where that is in the content store."""

    accepted: bool
    entity: str
    entity_id: str
    sequence: int = 0
    events: tuple[str, ...] = ()
    slug: str = ""
    message: str = ""
    status: int = 200
    content: str = ""


class Recorded(msgspec.Struct, frozen=True):
    """A decision as the log holds it; ``sequence`` is its place in the tenant's one order."""

    sequence: int
    envelope: Envelope
