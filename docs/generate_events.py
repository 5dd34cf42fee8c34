"""Writes ``docs/events.md`` from the types in ``events/``: ``python -m docs.generate_events``.

With ``--check`` nothing is written; the exit code is 1 where the page is not what it would be.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Union

import msgspec

from events import subjects
from events.catalogue import COMMANDS, EVENTS, MODULES, AnyCommand, AnyEvent
from events.envelope import CommandEnvelope, Envelope, Outcome

PAGE = Path(__file__).parent / "events.md"

HEAD = """\
# Events and commands

Generated from `events/` by `python -m docs.generate_events`; do not edit. How they travel is told in
[architecture](architecture.md), what the words mean in the [glossary](glossary.md).

Messages are JSON. `type` is the name of the message; a field that has its default is left out. Times are UTC, RFC 3339.

"""

PLAIN = {str: "text", int: "integer", float: "number", bool: "true or false", datetime: "time", types.NoneType: "null"}
ENVELOPES = (Envelope, CommandEnvelope, Outcome)


def page() -> str:
    parts = [HEAD, "## Streams\n", *_streams(), "\n## Around every message\n", *_each(ENVELOPES)]
    for module in MODULES:
        name = module.__name__.rpartition(".")[2]
        parts.append(f"\n## {name.replace('_', ' ').capitalize()}\n\n{_prose(module)}\n")
        for title, kinds in (("commands", COMMANDS), ("events", EVENTS)):
            own = [kind for kind in kinds.values() if kind.__module__ == module.__name__]
            if own:
                parts += [f"\n### {name.replace('_', ' ').capitalize()} {title}\n", *_each(own)]
    return "".join([*parts, "\n## Values inside messages\n", *_each(_values())])


def _streams() -> Iterator[str]:
    """The table in the docstring of ``events.subjects``, columns cut where its rules are."""
    lines = (inspect.getdoc(subjects) or "").splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("===")]
    columns = [match.span() for match in re.finditer("=+", lines[rules[0]])]
    rows: list[list[str]] = []
    for line in lines[rules[0] + 1 : rules[2]]:
        if line.startswith("==="):
            continue
        cells = [line[start : None if (start, end) == columns[-1] else end].strip() for start, end in columns]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{above} {below}".strip() for above, below in zip(rows[-1], cells, strict=True)]
    yield f"\n| {' | '.join(rows[0])} |\n| --- | --- | --- |\n"
    for name, subject, reason in rows[1:]:
        yield f"| `{name}` | `{subject}` | {reason} |\n"


def _each(kinds: typing.Iterable[type[Any]]) -> Iterator[str]:
    for kind in kinds:
        yield f"\n#### {kind.__name__}\n"
        prose = _prose(kind)
        if prose:
            yield f"\n{prose}\n"
        fields = msgspec.structs.fields(kind)
        if fields:
            hints = typing.get_type_hints(kind)
            yield "\n| field | type | default |\n| --- | --- | --- |\n"
            yield from (f"| `{field.name}` | {_type(hints[field.name])} | {_default(field)} |\n" for field in fields)
        else:
            yield "\nIt has no fields.\n"


def _prose(of: type[Any] | ModuleType) -> str:
    own = of.__doc__ if isinstance(of, ModuleType) else of.__dict__.get("__doc__")
    return re.sub(r"``(.+?)``", r"`\1`", inspect.cleandoc(own or ""))


def _type(annotation: Any) -> str:
    if annotation in PLAIN:
        return PLAIN[annotation]
    if annotation is Any:
        return "anything"
    if annotation in (AnyEvent, AnyCommand):
        return "any event" if annotation == AnyEvent else "any command"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"map of {_type(arguments[0])} to {_type(arguments[1])}"
    return f"[{annotation.__name__}](#{annotation.__name__.lower()})"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is not msgspec.NODEFAULT:
        default = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    else:
        return "required"
    if isinstance(default, msgspec.Struct) and len(msgspec.json.encode(default)) > 40:
        return "see its own defaults"
    return f"`{msgspec.json.encode(default).decode()}`"


def _values() -> list[type[Any]]:
    """Every struct that is part of a message without being one, each once, in the order in which they are met."""
    found: dict[type[Any], None] = {}
    waiting: list[Any] = [hint for kind in (*COMMANDS.values(), *EVENTS.values()) for hint in _hints(kind)]
    while waiting:
        annotation = waiting.pop(0)
        if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
            if annotation not in found:
                found[annotation] = None
                waiting += _hints(annotation)
        else:
            waiting += typing.get_args(annotation)
    return sorted(found, key=lambda kind: kind.__name__)


def _hints(kind: type[Any]) -> list[Any]:
    return list(typing.get_type_hints(kind).values())


def main(arguments: list[str]) -> int:
    wanted = page()
    if arguments == ["--check"]:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == wanted:
            return 0
        print(f"{PAGE} is out of date: run `python -m docs.generate_events`", file=sys.stderr)  # noqa: T201 - a script
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
