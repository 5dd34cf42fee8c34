"""What a probe's answer must be: the tolerances of the Chaos Toolkit. Pure.

A number, text, true/false or list of them is compared with the answer's own value: the status of an HTTP answer, the
exit code of a command, a state. ``regex``, ``jsonpath`` and ``range`` look into its text: the body, or what was
printed. A body is looked into only where the status is below 400, an output only where the exit code is 0: an error
page that happens to hold the right words holds nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from events.errors import Invalid

Scalar = str | int | float | bool


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """``value`` is what a plain tolerance is compared with, ``text`` what the others look into, ``failed`` says that
    the text is an error's."""

    value: Scalar
    text: str = ""
    failed: bool = False


class Equal(msgspec.Struct, frozen=True):
    expected: tuple[Scalar, ...]


class Range(msgspec.Struct, frozen=True):
    least: float
    most: float


class Regex(msgspec.Struct, frozen=True):
    pattern: str


class JsonPath(msgspec.Struct, frozen=True):
    """``expected`` is a list of the values that the path must find, or None where it must only find something."""

    path: str
    expected: tuple[Any, ...] | None = None


Tolerance = Equal | Range | Regex | JsonPath


def read_tolerance(raw: Any, place: str) -> Tolerance:
    """Raises ``Invalid`` with the place."""
    if isinstance(raw, str | int | float | bool):
        return Equal((raw,))
    if isinstance(raw, list) and raw and all(isinstance(item, str | int | float | bool) for item in raw):
        return Equal(tuple(raw))
    if not isinstance(raw, dict):
        raise _invalid(place, "a value, a list of values, or one of range, regex and jsonpath is needed.")
    fields = {"range": {"type", "range"}, "regex": {"type", "pattern"}, "jsonpath": {"type", "path", "expect"}}
    kind = raw.get("type")
    if kind not in fields:
        raise _invalid(f"{place}.type", f"{kind!r} is no tolerance here. There are: {', '.join(fields)}.")
    # ``target`` says in the original what is looked into; here that follows from the probe.
    unknown = sorted(set(raw) - fields[kind] - {"target"})
    if unknown:
        raise _invalid(place, f"{kind} has no field {unknown[0]!r}; it has {', '.join(sorted(fields[kind]))}.")
    if kind == "range":
        return _range(raw.get("range"), f"{place}.range")
    if kind == "regex":
        return _regex(raw.get("pattern"), f"{place}.pattern")
    return _jsonpath(raw, place)


def _range(raw: Any, place: str) -> Range:
    numbers = [item for item in raw if isinstance(item, int | float)] if isinstance(raw, list) else []
    if len(numbers) != 2 or numbers[0] > numbers[1]:
        raise _invalid(place, "two numbers are needed: the least and the most.")
    return Range(*numbers)


def _regex(raw: Any, place: str) -> Regex:
    try:
        re.compile(raw)
    except (re.error, TypeError) as error:
        raise _invalid(place, f"it is no regular expression: {error}.") from error
    return Regex(raw)


def _jsonpath(raw: dict[str, Any], place: str) -> JsonPath:
    path = raw.get("path")
    if not isinstance(path, str) or steps(path) is None:
        message = f"{path!r} cannot be read: use $.name, ['name'], [0] and [*], as in $.jobs[*].state."
        raise _invalid(f"{place}.path", message)
    if "expect" not in raw:
        return JsonPath(path)
    expected = raw["expect"]
    return JsonPath(path, tuple(expected) if isinstance(expected, list) else (expected,))


def why_not(tolerance: Tolerance | None, answer: Answer) -> str:
    """Why the answer is not as it must be; empty where it is."""
    match tolerance:
        case None:
            return ""
        case Equal(expected=expected):
            return "" if any(_same(answer.value, item) for item in expected) else f"it is not {_either(expected)}"
    if answer.failed:
        return "it is an error"
    match tolerance:
        case Range(least=least, most=most):
            return _within(answer, least, most)
        case Regex(pattern=pattern):
            return "" if re.search(pattern, answer.text) else f"nothing in it matches {pattern}"
        case JsonPath(path=path, expected=wanted):
            return _found(answer.text, path, wanted)


def _same(value: Scalar, expected: Scalar) -> bool:
    """True is not 1 here."""
    return isinstance(value, bool) == isinstance(expected, bool) and value == expected


def _within(answer: Answer, least: float, most: float) -> str:
    text = answer.text.strip() or str(answer.value)
    try:
        number = float(text)
    except ValueError:
        return "it is no number"
    return "" if least <= number <= most else f"it is not between {least:g} and {most:g}"


def _found(text: str, path: str, expected: tuple[Any, ...] | None) -> str:
    try:
        document = json.loads(text)
    except ValueError:
        return "it is no JSON"
    found = look_up(document, path)
    if expected is None:
        return "" if found else f"{path} finds nothing"
    if tuple(found) == expected:
        return ""
    return f"{path} is {_cut(json.dumps(found))}, not {_cut(json.dumps(list(expected)))}"


_STEP = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\[(\d+)\]|\[(\*)\]|\['([^']+)'\]|\.(\*)")


def steps(path: str) -> list[str | int | None] | None:
    """The steps of a path: names, numbers, and None for all; None where the path cannot be read."""
    if not path.startswith("$"):
        return None
    found: list[str | int | None] = []
    at = 1
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None:
            return None
        name, number, all_items, quoted, all_fields = match.groups()
        found.append(int(number) if number is not None else None if all_items or all_fields else name or quoted)
        at = match.end()
    return found


def look_up(document: Any, path: str) -> list[Any]:
    """Everything that ``path`` leads to."""
    found = [document]
    for step in steps(path) or ():
        following: list[Any] = []
        for item in found:
            if step is None:
                following += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
            elif isinstance(step, int):
                following += item[step : step + 1] if isinstance(item, list) else ()
            elif isinstance(item, dict) and step in item:
                following.append(item[step])
        found = following
    return found


def _either(expected: tuple[Scalar, ...]) -> str:
    return " or ".join(str(item).lower() if isinstance(item, bool) else str(item) for item in expected)


def _cut(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:297]}..."


def _invalid(place: str, message: str) -> Invalid:
    return Invalid(f"experiment, {place}: {message}", slug="invalid-experiment")
