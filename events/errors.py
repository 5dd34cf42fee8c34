"""The kinds of failure that Cairn tells apart, and how each one meets the edge.

======================== ============================ ==========================================
kind                     class                        at the edge
======================== ============================ ==========================================
a command that should    ``CommandRejected``          problem+json 4xx; answered and acknowledged,
not exist                                             a dead letter where nobody waits
the outside flinched     ``Transient``                nak with ``delay_seconds``
the outside refused      ``Permanent``                dead letter
a lost race              ``RevisionConflict``         decide again, at most five times
our bug                  anything else                recorded, bounded redelivery, dead letter
======================== ============================ ==========================================
"""

from __future__ import annotations


class CairnError(Exception):
    """The root of every error that Cairn raises on purpose. The message is written for its reader."""


class CommandRejected(CairnError):
    """A command that the present state does not allow.

    ``slug`` names the reason for programs, ``status`` is the HTTP status it maps to.
    """

    slug = "rejected"
    status = 409

    def __init__(self, message: str, *, slug: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        if slug is not None:
            self.slug = slug
        if status is not None:
            self.status = status


class NotFound(CommandRejected):
    """The thing that was named does not exist."""

    slug = "not-found"
    status = 404


class Invalid(CommandRejected):
    """What was sent cannot be understood or breaks a rule; the message says which and what to do."""

    slug = "invalid"
    status = 422


class Transient(CairnError):
    """The outside flinched: try again after ``delay_seconds``. Raised by adapters only, from its cause."""

    def __init__(self, message: str, *, delay_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds


class Permanent(CairnError):
    """The outside refused and would refuse again. Raised by adapters only, from its cause."""

    def __init__(self, message: str, *, slug: str = "refused") -> None:
        super().__init__(message)
        self.slug = slug


class RevisionConflict(CairnError):
    """Another decision was appended to the entity first."""


class UndecodableMessage(CairnError):
    """Bytes on a subject that are no message of ours: junk, or written by a newer version."""


class Fenced(CairnError):
    """Another process holds this work now. Whoever meets it stops at once, appends nothing and settles nothing."""
