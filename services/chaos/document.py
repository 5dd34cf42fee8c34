"""An experiment's document, read: the Chaos Toolkit's shape (https://chaostoolkit.org/reference/api/experiment/), as
far as it makes sense where no code of the document's author is ever executed by us.

A provider is one of ours, told apart by ``type``; everything that is not known is refused with its place and what may
stand there. Pure: text in, ``Document`` out, ``Invalid`` raised.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from events import faults
from events.errors import Invalid
from events.faults import AnyFault
from infra import yaml_text
from services.chaos.tolerances import Tolerance, read_tolerance

Json = dict[str, Any]

LONGEST_DOCUMENT = 128 * 1024
MAX_STEPS = 50
MAX_PROBES = 20
EXTENSION = "cairn"

# ``${name}`` is substituted; ``${service:8080}``, the address of a published port, is found out when it is used.
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_-]*)\}")


class Provider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """What is done or asked."""


class Http(Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="http"):
    """A request from this host. ``${service:port}`` in the URL stands for the address of a published port."""

    url: str
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    headers: dict[str, str] = {}
    body: str = ""
    timeout: float = 3.0


class Tcp(Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tcp"):
    """Whether a connection can be made to ``address``, which is ``host:port`` or ``${service:port}``."""

    address: str
    timeout: float = 3.0


class ServiceHealthy(Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="service_healthy"):
    """Whether all containers of a service run, and are healthy where they have a health check."""

    service: str
    timeout: float = 5.0


class ContainerState(Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="container_state"):
    """The state of a service's containers, as the engine names it; the states with commas where they differ."""

    service: str
    timeout: float = 5.0


class Command(Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="command"):
    """A command line, executed in the environment's workspace as a call of its own; with ``service``, by ``sh`` in the
    first running container of that service."""

    command: str
    service: str = ""
    timeout: float = 30.0


class Compose(Provider, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="compose"):
    """Start or restart the containers of a service."""

    action: Literal["start", "restart"]
    service: str


class Fault(msgspec.Struct, frozen=True):
    """A fault, as ``events.faults`` reads it."""

    fault: AnyFault


ProbeProvider = Http | Tcp | ServiceHealthy | ContainerState | Command
PROBES: dict[str, type[Provider]] = {
    "http": Http,
    "tcp": Tcp,
    "service_healthy": ServiceHealthy,
    "container_state": ContainerState,
    "command": Command,
}
ACTIONS = ("fault", "compose")


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """``tolerance`` is None where any answer will do."""

    name: str
    provider: ProbeProvider
    tolerance: Tolerance | None = None


class Continuous(msgspec.Struct, frozen=True, kw_only=True):
    """A probe that is sampled all the while. At least the fraction ``hold`` of its samples has to be in tolerance."""

    probe: Probe
    interval_seconds: float = 1.0
    hold: float = 1.0


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """A stop condition: where it fails so often in a row, everything is undone and the experiment aborted."""

    probe: Probe
    interval_seconds: float = 1.0
    failures: int = 1


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """``work`` is a fault, an action or a probe. With ``background`` a fault is not waited for: the next step begins as
    soon as it is injected."""

    name: str
    work: Fault | Compose | Probe
    background: bool = False
    pause_before: float = 0.0
    pause_after: float = 0.0

    @property
    def kind(self) -> str:
        return {Fault: "fault", Compose: "compose", Probe: "probe"}[type(self.work)]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """``recovery_seconds`` is how long the steady state may take to come back, ``longest_seconds`` how long everything
    may take."""

    title: str
    description: str = ""
    hypothesis_title: str = ""
    hypothesis: tuple[Probe, ...] = ()
    method: tuple[Step, ...] = ()
    rollbacks: tuple[Step, ...] = ()
    observed: tuple[Continuous, ...] = ()
    guards: tuple[Guard, ...] = ()
    recovery_seconds: float = 30.0
    longest_seconds: float = 900.0

    @property
    def faults(self) -> dict[int, AnyFault]:
        """The faults of the method by their step."""
        return {number: step.work.fault for number, step in enumerate(self.method) if isinstance(step.work, Fault)}

    @property
    def probes(self) -> tuple[Probe, ...]:
        """All of them."""
        asked = [step.work for step in self.method if isinstance(step.work, Probe)]
        guards = [guard.probe for guard in self.guards]
        return (*self.hypothesis, *asked, *(item.probe for item in self.observed), *guards)


def parse(text: str, *, longest_fault_seconds: float = faults.LONGEST_SECONDS) -> Document:
    """The document in ``text``, JSON or YAML. Raises ``Invalid``, whose message names the place."""
    if len(text) > LONGEST_DOCUMENT:
        raise _invalid("", f"it has {len(text)} characters; at most {LONGEST_DOCUMENT} are read.")
    try:
        root = _object(yaml_text.read(text), "")
        return _Reader(_configuration(root), longest_fault_seconds).document(root)
    except yaml_text.NotReadable as error:
        raise _invalid("", f"it is neither JSON nor YAML: {error}") from error
    except RecursionError as error:
        raise _invalid("", "it is nested too deeply.") from error


class _Reader:
    """Reads one document, with the values that its ``configuration`` gives to ``${name}``."""

    def __init__(self, configuration: Mapping[str, Any], longest_fault_seconds: float) -> None:
        self._configuration = configuration
        self._longest_fault_seconds = longest_fault_seconds

    def document(self, raw: Json) -> Document:
        known = ("title", "description", "tags", "version", "configuration", "contributions", "steady-state-hypothesis")
        _only(raw, (*known, "method", "rollbacks", "extensions"), "")
        hypothesis = _object(raw.get("steady-state-hypothesis") or {}, "steady-state-hypothesis")
        _only(hypothesis, ("title", "probes"), "steady-state-hypothesis")
        extension = self._extension(raw)
        place = f"extensions.{EXTENSION}"
        document = Document(
            title=_text(raw, "title", ""),
            description=_text(raw, "description", "", optional=True),
            hypothesis_title=_text(hypothesis, "title", "steady-state-hypothesis", optional=True),
            hypothesis=tuple(
                self._probe(item, at, needs_tolerance=True)
                for item, at in _list(hypothesis.get("probes"), "steady-state-hypothesis.probes", MAX_PROBES)
            ),
            method=tuple(self._step(item, at) for item, at in _list(raw.get("method"), "method", MAX_STEPS)),
            rollbacks=tuple(
                self._rollback(item, at) for item, at in _list(raw.get("rollbacks"), "rollbacks", MAX_STEPS)
            ),
            observed=tuple(
                self._continuous(item, at)
                for item, at in _list(extension.get("observe"), f"{place}.observe", MAX_PROBES)
            ),
            guards=tuple(
                self._guard(item, at) for item, at in _list(extension.get("guards"), f"{place}.guards", MAX_PROBES)
            ),
            recovery_seconds=_seconds(extension, "recovery_seconds", place, 30.0, least=0.0),
            longest_seconds=_seconds(extension, "longest_seconds", place, 900.0),
        )
        if not document.method:
            raise _invalid("method", "it is empty: name at least one action or probe.")
        observed = [item.probe.name for item in document.observed]
        _distinct([*observed, *(guard.probe.name for guard in document.guards)], place)
        return document

    def _extension(self, raw: Json) -> Json:
        """Ours among the extensions; those of others are left alone, as the format asks."""
        found: Json = {}
        for item, place in _list(raw.get("extensions"), "extensions", MAX_STEPS):
            extension = _object(item, place)
            if extension.get("name") == EXTENSION:
                _only(extension, ("name", "observe", "guards", "recovery_seconds", "longest_seconds"), place)
                found = self._substituted(extension, place)
        return found

    def _step(self, raw: Any, place: str) -> Step:
        activity = self._activity(raw, place, ("type", "name", "provider", "tolerance", "background", "pauses"))
        kind = activity.get("type")
        pauses = _object(activity.get("pauses") or {}, f"{place}.pauses")
        _only(pauses, ("before", "after"), f"{place}.pauses")
        background = activity.get("background", False)
        if not isinstance(background, bool):
            raise _invalid(f"{place}.background", f"{background!r} is neither true nor false.")
        if kind == "probe":
            probe = {key: value for key, value in activity.items() if key not in ("background", "pauses")}
            work: Fault | Compose | Probe = self._probe(probe, place)
        elif kind == "action":
            if "tolerance" in activity:
                raise _invalid(f"{place}.tolerance", "an action has no tolerance; only probes do.")
            work = self._action(activity.get("provider"), f"{place}.provider")
        else:
            raise _invalid(f"{place}.type", f"{kind!r} is neither 'action' nor 'probe'.")
        if background and not isinstance(work, Fault):
            hint = f"what is sampled all the while stands in extensions, name: {EXTENSION}, observe."
            raise _invalid(f"{place}.background", f"only a fault goes on in the background; {hint}")
        return Step(
            name=_text(activity, "name", place),
            work=work,
            background=background,
            pause_before=_seconds(pauses, "before", f"{place}.pauses", 0.0, least=0.0),
            pause_after=_seconds(pauses, "after", f"{place}.pauses", 0.0, least=0.0),
        )

    def _rollback(self, raw: Any, place: str) -> Step:
        step = self._step(raw, place)
        if not isinstance(step.work, Compose):
            raise _invalid(place, "a rollback is an action of the provider 'compose'; faults are undone in any case.")
        return step

    def _action(self, raw: Any, place: str) -> Fault | Compose:
        provider = _object(raw, place)
        match provider.get("type"):
            case "fault":
                fault = {key: value for key, value in provider.items() if key != "type"}
                try:
                    return Fault(faults.parse(fault, longest_seconds=self._longest_fault_seconds))
                except Invalid as error:
                    raise _invalid(place, str(error), slug=error.slug) from error
            case "compose":
                compose: Compose = _convert(provider, Compose, place)
                return compose
            case other:
                raise _unknown(other, ACTIONS, f"{place}.type", "provider of actions")

    def _probe(self, raw: Any, place: str, *, needs_tolerance: bool = False) -> Probe:
        activity = self._activity(raw, place, ("type", "name", "provider", "tolerance"))
        if activity.get("type", "probe") != "probe":
            raise _invalid(f"{place}.type", f"{activity['type']!r} cannot stand here; only 'probe' can.")
        provider = _object(activity.get("provider"), f"{place}.provider")
        kind = provider.get("type")
        if not isinstance(kind, str) or kind not in PROBES:
            raise _unknown(kind, tuple(PROBES), f"{place}.provider.type", "provider of probes")
        read: Any = _convert(provider, PROBES[kind], f"{place}.provider")
        if not 0 < read.timeout <= 300:
            raise _invalid(f"{place}.provider.timeout", f"{read.timeout:g} is not between 0 and 300 seconds.")
        tolerance = None
        if "tolerance" in activity:
            tolerance = read_tolerance(activity["tolerance"], f"{place}.tolerance")
        elif isinstance(read, ServiceHealthy | Tcp):
            tolerance = read_tolerance(True, f"{place}.tolerance")
        elif needs_tolerance:
            raise _invalid(place, "a probe here needs a tolerance: what its answer must be.")
        return Probe(name=_text(activity, "name", place), provider=read, tolerance=tolerance)

    def _continuous(self, raw: Any, place: str) -> Continuous:
        item = _object(raw, place)
        hold = item.get("hold", 1.0)
        if isinstance(hold, bool) or not isinstance(hold, int | float) or not 0 <= hold <= 1:
            raise _invalid(f"{place}.hold", f"{hold!r} is no fraction between 0 and 1.")
        return Continuous(
            probe=self._sampled(item, place, "hold"), interval_seconds=_interval(item, place), hold=float(hold)
        )

    def _guard(self, raw: Any, place: str) -> Guard:
        item = _object(raw, place)
        failures = item.get("failures", 1)
        if isinstance(failures, bool) or not isinstance(failures, int) or failures < 1:
            raise _invalid(f"{place}.failures", f"{failures!r} is no count of failures in a row (1 or more).")
        return Guard(
            probe=self._sampled(item, place, "failures"), interval_seconds=_interval(item, place), failures=failures
        )

    def _sampled(self, item: Json, place: str, own: str) -> Probe:
        rest = {key: value for key, value in item.items() if key not in ("interval_seconds", own)}
        return self._probe(rest, place, needs_tolerance=True)

    def _activity(self, raw: Any, place: str, known: tuple[str, ...]) -> Json:
        activity = _object(raw, place)
        _only(activity, known, place)
        substituted: Json = self._substituted(activity, place)
        return substituted

    def _substituted(self, value: Any, place: str) -> Any:
        """``${name}`` replaced; where a text is nothing else, by the value itself, whatever its type."""
        if isinstance(value, dict):
            return {key: self._substituted(item, f"{place}.{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self._substituted(item, f"{place}[{number}]") for number, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        whole = _VARIABLE.fullmatch(value)
        if whole:
            return self._value(whole[1], place)
        return _VARIABLE.sub(lambda found: str(self._value(found[1], place)), value)

    def _value(self, name: str, place: str) -> Any:
        if name not in self._configuration:
            known = ", ".join(self._configuration) or "nothing"
            raise _invalid(place, f"${{{name}}} is not in the configuration, which has {known}.")
        return self._configuration[name]


def _configuration(raw: Json) -> Json:
    """Plain values only: a document must not read this host's environment or files."""
    configuration = _object(raw.get("configuration") or {}, "configuration")
    for name, value in configuration.items():
        if not isinstance(value, str | int | float | bool):
            message = "only texts, numbers and true or false can be given; values from the environment or files cannot."
            raise _invalid(f"configuration.{name}", message)
    return configuration


def _object(raw: Any, place: str) -> Json:
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise _invalid(place, f"an object with named fields is needed here, not {_shown(raw)}.")
    return raw


def _list(raw: Any, place: str, most: int) -> list[tuple[Any, str]]:
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise _invalid(place, f"a list is needed here, not {_shown(raw)}.")
    if len(raw) > most:
        raise _invalid(place, f"it has {len(raw)} entries; at most {most} are possible.")
    return [(item, f"{place}[{number}]") for number, item in enumerate(raw)]


def _text(raw: Json, name: str, place: str, *, optional: bool = False) -> str:
    value = raw.get(name, "" if optional else None)
    if not isinstance(value, str) or not (optional or value.strip()) or len(value) > 2000:
        raise _invalid(f"{place}.{name}".lstrip("."), f"a text is needed here, not {_shown(value)}.")
    return value


def _seconds(raw: Json, name: str, place: str, default: float, *, least: float = 0.001) -> float:
    value = raw.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _invalid(f"{place}.{name}", f"{_shown(value)} is no number of seconds.")
    if not least <= value <= faults.LONGEST_SECONDS:
        raise _invalid(f"{place}.{name}", f"{value:g} is not between {least:g} and {faults.LONGEST_SECONDS:g} seconds.")
    return float(value)


def _interval(raw: Json, place: str) -> float:
    return _seconds(raw, "interval_seconds", place, 1.0, least=0.05)


def _only(raw: Json, known: tuple[str, ...], place: str) -> None:
    for key in raw:
        if key not in known:
            raise _unknown(key, known, place, "field")


def _distinct(names: list[str], place: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise _invalid(place, f"two probes are named {name!r}; their samples could not be told apart.")


def _convert(raw: Json, kind: type[Any], place: str) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        fields = ", ".join(field.name for field in msgspec.structs.fields(kind))
        raise _invalid(place, f"{error}. {raw['type']} takes {fields}.") from error


def _unknown(name: Any, known: tuple[str, ...], place: str, what: str) -> Invalid:
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
    return _invalid(place, f"{name!r} is no {what} here. {hint}")


def _invalid(place: str, message: str, *, slug: str = "invalid-experiment") -> Invalid:
    return Invalid(f"experiment{f', {place}' if place else ''}: {message}", slug=slug)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
