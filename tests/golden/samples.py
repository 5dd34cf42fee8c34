"""One value of every message type, with every field set and none at its default: made from the type hints alone, so
that the same types always make the same values.
"""

from __future__ import annotations

import types
import typing
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import msgspec

from events import codec
from events.catalogue import COMMANDS, EVENTS
from events.envelope import CommandEnvelope, Envelope, Outcome

HERE = Path(__file__).parent
TIME = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)
NUMBERS: dict[Any, Any] = {int: 7, float: 2.5, datetime: TIME}

DECODERS: dict[str, Callable[[bytes], Any]] = {
    "Envelope": codec.decode_event,
    "CommandEnvelope": codec.decode_command,
    "Outcome": codec.decode_outcome,
}
# What stands in an envelope must not change whenever there is a new message.
SPOKEN: dict[str, type[Any]] = {
    "Envelope.events": EVENTS["TaskCancelled"],
    "CommandEnvelope.command": COMMANDS["CancelTask"],
}

FOLDERS: dict[str, dict[str, type[Any]]] = {
    "events": dict(EVENTS),
    "commands": dict(COMMANDS),
    "envelopes": {kind.__name__: kind for kind in (Envelope, CommandEnvelope, Outcome)},
}


def sample(kind: type[msgspec.Struct]) -> Any:
    """The value of a struct type."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return kind(
        **{
            field.name: _value(hints[field.name], f"{kind.__name__}.{field.name}", field.name, field.default)
            for field in msgspec.structs.fields(kind)
        }
    )


def _value(annotation: Any, place: str, name: str, default: object) -> Any:
    if annotation is str or annotation is Any:
        return f"{name} ✓"
    if annotation is bool:
        return default is not True
    if annotation in NUMBERS:
        return NUMBERS[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return next(argument for argument in arguments if argument != default)
    if origin is Annotated:
        return _value(arguments[0], place, name, default)
    if place in SPOKEN and origin is not tuple:
        return sample(SPOKEN[place])
    if origin in (Union, types.UnionType):
        present = [argument for argument in arguments if argument is not types.NoneType]
        # A different member in each place, the same one every time.
        return _value(present[zlib.crc32(place.encode()) % len(present)], place, name, default)
    if origin is tuple:
        return (_value(arguments[0], place, name, default),)
    if origin is dict:
        return {name.upper(): _value(arguments[1], place, name, default)}
    return sample(annotation)


def encoded(value: Any) -> Any:
    """What stands on the wire for a value, as plain JSON."""
    return msgspec.json.decode(codec.encode(value))


def versions(folder: str, name: str) -> list[Path]:
    """The files of a message, oldest first."""
    found = {int(path.name.split(".")[1]): path for path in (HERE / folder).glob(f"{name}.*.json") if _is_version(path)}
    return [found[number] for number in sorted(found)]


def _is_version(path: Path) -> bool:
    return path.name.split(".")[1].isdigit() and not path.name.endswith(".expected.json")


def decoded(folder: str, name: str, message: Any) -> Any:
    """What the codec makes of a golden message."""
    if folder == "events":
        around = {**encoded(sample(Envelope)), "events": [message]}
        return codec.decode_event(msgspec.json.encode(around)).events[0]
    if folder == "commands":
        around = {**encoded(sample(CommandEnvelope)), "command": message}
        return codec.decode_command(msgspec.json.encode(around)).command
    return DECODERS[name](msgspec.json.encode(message))
