"""What follows in an experiment, and whether it may begin: its state and its document in, the next action out. Pure.

Whoever carries the action out appends what came of it and asks again; so a process that takes over from one that was
killed goes on where the log ends.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from events.experiment import Experiment
from services.chaos.document import Compose, Document, Fault, Http, Probe, Tcp
from services.chaos.ports import Affected, Container

RECOVERY_POLL_SECONDS = 0.5
# How long undoing is tried before the experiment ends without: the fault stays reported, and is tried on.
STUCK_SECONDS = 60.0


class Wait(msgspec.Struct, frozen=True):
    """Nothing is to be done before that time."""

    until: datetime


class ProbeBefore(msgspec.Struct, frozen=True):
    """Put the hypothesis to the test before the method."""


class ProbeAfter(msgspec.Struct, frozen=True):
    """Look whether the hypothesis holds again; ``last`` where there is no time for another look. ``since`` is when the
    last fault ended."""

    since: datetime
    last: bool


class Begin(msgspec.Struct, frozen=True):
    step: int


class End(msgspec.Struct, frozen=True):
    """A step that needs nothing more: ``succeeded`` as it went."""

    step: int
    succeeded: bool = True
    detail: str = ""


class Intend(msgspec.Struct, frozen=True):
    step: int


class Inject(msgspec.Struct, frozen=True):
    fault_id: str


class Undo(msgspec.Struct, frozen=True):
    fault_id: str
    reason: str


class Perform(msgspec.Struct, frozen=True):
    """Do the action of a step of the method."""

    step: int


class Ask(msgspec.Struct, frozen=True):
    """Ask the probe of a step of the method."""

    step: int


class RollBack(msgspec.Struct, frozen=True):
    number: int


class Abort(msgspec.Struct, frozen=True):
    cause: str
    detail: str


class Conclude(msgspec.Struct, frozen=True):
    """Everything is done, or given up: the verdict is due."""


class Nothing(msgspec.Struct, frozen=True):
    """It has ended, or never began."""


Action = (
    Wait
    | ProbeBefore
    | ProbeAfter
    | Begin
    | End
    | Intend
    | Inject
    | Undo
    | Perform
    | Ask
    | RollBack
    | Abort
    | Conclude
    | Nothing
)


def fault_id(experiment_id: str, step: int) -> str:
    return f"{experiment_id}-f{step}"


def experiment_of(fault_id: str) -> str:
    return fault_id.rpartition("-f")[0]


def following(state: Experiment, document: Document, now: datetime) -> Action:
    """What is to be done next. Undoing what is due goes before everything."""
    if not state.active or state.validated is None:
        return Nothing()
    undoing = _undo(state, now)
    if undoing is not None:
        return undoing
    if state.abort is not None or any(fault.stuck is not None for fault in state.open_faults.values()):
        return _finish(state, document)
    for fault in state.faults.values():
        if fault.failure is not None:
            return Abort("not-injected", f"{fault.failure.cause}: {fault.failure.detail}")
    if now >= state.validated.deadline:
        return Abort("overdue", f"it was not done within {document.longest_seconds:g} s")
    if document.hypothesis and state.before is None:
        return ProbeBefore()
    if state.before is not None and not state.before.met:
        return Conclude()
    for number in range(len(document.method)):
        if number not in state.ended:
            return _step(state, document, number, now)
    if state.open_faults:
        return Wait(min(fault.intended.ends_at for fault in state.open_faults.values()))
    return (
        _finish(state, document)
        if _rolled_back(state, document) < len(document.rollbacks)
        else _look(state, document, now)
    )


def observing(state: Experiment, document: Document) -> bool:
    """Whether the continuous probes and the guards are at work: from the first step to the end."""
    if not state.active or state.abort is not None:
        return False
    return state.before.met if state.before is not None else not document.hypothesis


def _undo(state: Experiment, now: datetime) -> Action | None:
    """A fault that has to go, because its time is over or because everything is called off."""
    later: list[datetime] = []
    for id, fault in state.open_faults.items():
        ended = now >= fault.intended.ends_at
        if not (ended or state.abort is not None or fault.failure is not None):
            continue
        if fault.stuck is None:
            return Undo(id, "ended" if ended and state.abort is None else "aborted")
        later.append(fault.stuck.at + timedelta(seconds=STUCK_SECONDS))
    if later and now < max(later):
        return Wait(max(later))
    return None


def _finish(state: Experiment, document: Document) -> Action:
    number = _rolled_back(state, document)
    # What never began has left nothing to be rolled back.
    return RollBack(number) if number < len(document.rollbacks) and state.begun else Conclude()


def _rolled_back(state: Experiment, document: Document) -> int:
    return next((n for n in range(len(document.rollbacks)) if n not in state.rollbacks), len(document.rollbacks))


def _step(state: Experiment, document: Document, number: int, now: datetime) -> Action:
    step = document.method[number]
    begun = state.begun.get(number)
    if begun is None:
        earliest = _pause_over(state, document, number)
        return Begin(number) if earliest is None or now >= earliest else Wait(earliest)
    ready_at = begun.at + timedelta(seconds=step.pause_before)
    if now < ready_at:
        return Wait(ready_at)
    if isinstance(step.work, Probe):
        return Ask(number)
    if isinstance(step.work, Compose):
        return Perform(number)
    fault = state.faults.get(fault_id(state.id, number))
    if fault is None:
        return Intend(number)
    if not fault.injected and not fault.undone:
        return Inject(fault.intended.fault_id)
    if step.background or fault.undone:
        return End(number)
    return Wait(fault.intended.ends_at)


def _pause_over(state: Experiment, document: Document, number: int) -> datetime | None:
    """When the pause after the step before is over."""
    before = state.ended.get(number - 1)
    if before is None:
        return None
    return before.at + timedelta(seconds=document.method[number - 1].pause_after)


def _look(state: Experiment, document: Document, now: datetime) -> Action:
    """After everything is undone: wait for the steady state to come back, within its time."""
    last = state.ended[len(document.method) - 1].at + timedelta(seconds=document.method[-1].pause_after)
    if now < last:
        return Wait(last)
    if not document.hypothesis or state.after is not None:
        return Conclude()
    undone = [fault.undone_at for fault in state.faults.values() if fault.undone_at is not None]
    since = max(undone, default=last)
    return ProbeAfter(since, last=now >= since + timedelta(seconds=document.recovery_seconds))


# ---- whether it may begin


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What this host allows."""

    projects: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    faults_at_once: int = 4
    longest_fault_seconds: float = 600.0


def why_protected(containers: Sequence[Container], protected: Collection[str]) -> str:
    """Why nothing may happen to one of the containers; empty where it may."""
    for container in containers:
        if {container.service, container.shown, container.name} & set(protected):
            return f"{container.shown} is protected: chaos.protected names it in the settings of this host"
    return ""


def why_impossible(document: Document, capabilities: Mapping[str, str]) -> str:
    """Why this host cannot do a fault of the document; empty where it can do all."""
    for fault in document.faults.values():
        why = capabilities.get(fault.kind, "it is not known here")
        if why:
            return f"{fault.kind} is not possible on this host: {why}"
    return ""


# Only what a published port of the target stands for, whatever path follows it.
_OWN_URL = re.compile(r"https?://\$\{[A-Za-z0-9][A-Za-z0-9_.-]*:\d{1,5}\}(?:[/?#].*)?\Z", re.DOTALL)
_OWN_ADDRESS = re.compile(r"\$\{[A-Za-z0-9][A-Za-z0-9_.-]*:\d{1,5}\}\Z")


def why_beyond(document: Document) -> str:
    """Why a probe would reach beyond the target; empty where none does. What an agent writes must not make this host
    ask others: its own services, its network, the whole world."""
    for probe in document.probes:
        match probe.provider:
            case Http(url=asked) if not _OWN_URL.match(asked):
                pass
            case Tcp(address=asked) if not _OWN_ADDRESS.match(asked):
                pass
            case _:
                continue
        return (
            f"{probe.name} asks {asked}; the experiments of agents and gates reach only published ports of their own "
            "system, as ${service:port}"
        )
    return ""


def why_clashing(document: Document, affected: Mapping[int, Affected], faults_at_once: int) -> str:
    """Why the faults of the document cannot go beside one another; empty where they can. Times that nobody knows
    before (of probes and actions) count as none, so that what overlaps in the end may still be refused then."""
    spans = _spans(document)
    for number, (begin, _) in spans.items():
        beside = [other for other, (start, end) in spans.items() if other <= number and start <= begin < end]
        if len(beside) > faults_at_once:
            return (
                f"at step {number} there would be {len(beside)} faults at once; this host allows {faults_at_once} "
                "(chaos.faults_at_once)"
            )
        for other in beside:
            shared = _shared(affected[other], affected[number])
            if other != number and shared and _takes(document, other) == _takes(document, number):
                return (
                    f"steps {other} and {number} would both take the {_takes(document, number)} of {shared}: "
                    "one fault for each resource at a time"
                )
    return ""


def _spans(document: Document) -> dict[int, tuple[float, float]]:
    found: dict[int, tuple[float, float]] = {}
    now = 0.0
    for number, step in enumerate(document.method):
        now += step.pause_before
        if isinstance(step.work, Fault):
            found[number] = (now, now + step.work.fault.duration_seconds)
            now = now if step.background else now + step.work.fault.duration_seconds
        now += step.pause_after
    return found


def _takes(document: Document, number: int) -> str:
    return document.faults[number].takes


def _shared(one: Affected, other: Affected) -> str:
    ids = {container.id for container in other.hit}
    return next((container.shown for container in one.hit if container.id in ids), "")
