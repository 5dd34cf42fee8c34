"""Values of any message type, made from its type hints.

Names and ids come from a small set as a rule, so that messages made apart from one another speak of the same things.
"""

from __future__ import annotations

import types
import typing
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Union

import msgspec
from hypothesis import strategies as st

from events.catalogue import EVENTS, MODULES
from events.kernel import Event

WORDS = st.sampled_from(["", "a", "b", "shop-1", "shop-1-a-1", "c1"]) | st.text(max_size=8)
TIMES = st.integers(0, 10**12).map(
    lambda milliseconds: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(0, 0, milliseconds)
)

PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: WORDS,
    bool: st.booleans(),
    int: st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
    types.NoneType: st.none(),
    datetime: TIMES,
}

_made: dict[type, st.SearchStrategy[Any]] = {}


def of(annotation: Any) -> st.SearchStrategy[Any]:
    """A strategy for a type as it stands in the fields of messages."""
    if annotation in PLAIN:
        return PLAIN[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return WORDS | st.integers(-3, 3) | st.none()
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is Annotated:
        return of(arguments[0])
    if origin in (Union, types.UnionType):
        return st.one_of([of(argument) for argument in arguments])
    if origin is tuple:
        return st.lists(of(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(of(arguments[0]), of(arguments[1]), max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return struct(annotation)
    message = f"no strategy for {annotation}"
    raise TypeError(message)


def struct(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    if kind not in _made:
        hints = typing.get_type_hints(kind, include_extras=True)
        _made[kind] = st.builds(kind, **{field.name: of(hints[field.name]) for field in msgspec.structs.fields(kind)})
    return _made[kind]


def events_of(entity: str) -> st.SearchStrategy[Event]:
    """Any event that belongs to an entity."""
    module = next(module for module in MODULES if module.__name__ == f"events.{entity}")
    return st.one_of([struct(kind) for kind in EVENTS.values() if kind.__module__ == module.__name__])
