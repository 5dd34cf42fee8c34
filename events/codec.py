"""Bytes to messages and back. Old messages decode for ever.

The fast path is one msgspec decoder over the union of all message types. A message whose type or shape is no
longer today's takes the slow path: it is read as plain JSON, its upcasters turn the old shape into the present
one, and it is converted. ``tests/golden`` holds a file for every version of every message ever written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from events.envelope import CommandEnvelope, Envelope, Outcome
from events.errors import UndecodableMessage

Json = dict[str, Any]
Upcaster = Callable[[Json], Json]

# Wire name of an old shape → a function that answers with the next shape, its "type" included.
UPCASTERS: dict[str, Upcaster] = {}

_encoder = msgspec.json.Encoder()
_event_decoder = msgspec.json.Decoder(Envelope)
_command_decoder = msgspec.json.Decoder(CommandEnvelope)
_outcome_decoder = msgspec.json.Decoder(Outcome)

encode = _encoder.encode

T = TypeVar("T")


def upcaster(wire_name: str) -> Callable[[Upcaster], Upcaster]:
    """Register the function that lifts messages of ``wire_name`` to the next shape; a second one is refused."""

    def register(function: Upcaster) -> Upcaster:
        if wire_name in UPCASTERS:
            message = f"two upcasters for {wire_name!r}"
            raise ValueError(message)
        UPCASTERS[wire_name] = function
        return function

    return register


def _upcast(message: Json) -> Json:
    seen = set()
    while (name := message.get("type")) in UPCASTERS and name not in seen:
        seen.add(name)
        message = UPCASTERS[name](message)
    return message


def _decode_slowly(data: bytes, kind: type[T], field: str, cause: Exception) -> T:
    try:
        raw = msgspec.json.decode(data)
        body = raw[field]
        raw[field] = [_upcast(item) for item in body] if isinstance(body, list) else _upcast(body)
        return msgspec.convert(raw, kind)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        message = f"not a message this version understands: {cause}"
        raise UndecodableMessage(message) from error


def decode_event(data: bytes) -> Envelope:
    try:
        return _event_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _decode_slowly(data, Envelope, "events", error)


def decode_command(data: bytes) -> CommandEnvelope:
    try:
        return _command_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _decode_slowly(data, CommandEnvelope, "command", error)


def decode_outcome(data: bytes) -> Outcome:
    try:
        return _outcome_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"not an outcome: {error}"
        raise UndecodableMessage(message) from error
