"""The decider kernel: messages, folds and decisions as plain values.

An entity is three things: its events, ``evolve(state, event) -> state`` (total: it never raises on history) and
``decide(state, command, now) -> events`` (pure: a repeated command decides nothing). ``evolve`` stands here, in
the shared language, because every service folds; ``decide`` stands in the one service that owns the entity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag=True, tag_field="type"):
    """Something said on a subject; its class name is its name on the wire."""


class Event(Message, frozen=True, kw_only=True, omit_defaults=True, tag=True, tag_field="type"):
    """A fact: something that happened. Named noun + past participle, never changed once written."""


class Command(Message, frozen=True, kw_only=True, omit_defaults=True, tag=True, tag_field="type"):
    """A wish: something that is to be done, addressed to the one service that may decide it."""


S = TypeVar("S")


class Entity(msgspec.Struct, Generic[S], frozen=True):
    """How one kind of entity is folded: ``name`` is its token in the subject, ``initial(id)`` the empty state."""

    name: str
    initial: Callable[[str], S]
    evolve: Callable[[S, Event], S]

    def fold(self, id: str, events: Iterable[Event]) -> S:
        return self.fold_onto(self.initial(id), events)

    def fold_onto(self, state: S, events: Iterable[Event]) -> S:
        for event in events:
            state = self.evolve(state, event)
        return state


Evolver = Callable[[Any, Any], Any]


def evolver(handlers: dict[type[Event], Evolver]) -> Callable[[S, Event], S]:
    """``evolve`` from one small function per event type; an event without one leaves the state as it is."""

    def evolve(state: S, event: Event) -> S:
        handler = handlers.get(type(event))
        return state if handler is None else handler(state, event)

    return evolve


replace = msgspec.structs.replace
