"""An experiment: faults on purpose, in one environment, with what must hold before, during and after. Owned by the
chaos service of the host that the environment lives on.

Its states: validated → steady before → injecting → observing → reverted → recovered → completed, deviated or aborted;
refused where it never began. A fault's intent, with its end, is in the log before anything happens to a container. A
fault is a plain document here (``events.faults`` reads it): what was injected once must be readable for ever, however
faults are described later.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from immutables import Map

from events.kernel import Command, Entity, Event, evolver, replace

COMPOSE_TARGET = "compose:"

Json = dict[str, Any]


def experiment_of_call(call_id: str, number: int = 1) -> str:
    """The id of the experiment that a tool call asks for: the same call asks for the same experiment. ``number`` counts
    those that it asked for because the one before was refused for the time being."""
    return f"{call_id}-experiment" if number == 1 else f"{call_id}-experiment-{number}"


def is_experiment_of_call(id: str, call_id: str) -> bool:
    first = experiment_of_call(call_id)
    return id == first or (id.startswith(f"{first}-") and id[len(first) + 1 :].isdigit())


def single(fault: Json) -> str:
    """The document of an experiment that is one fault and nothing else."""
    action = {"type": "action", "name": fault.get("kind", "fault"), "provider": {"type": "fault", **fault}}
    title = " ".join(str(fault[name]) for name in ("kind", "service", "peer") if fault.get(name))
    return msgspec.json.encode({"title": title, "method": [action]}).decode()


# ---- what is asked for


class RunExperiment(Command, frozen=True, kw_only=True):
    """``document`` is an experiment as JSON or YAML (``docs/chaos.md``). ``target`` is an environment's id, or
    ``compose:`` and the name of a Compose project that the host's settings allow. With ``dry_run`` it is checked and
    its containers are found, and nothing happens to them. ``run_id`` and ``call_id`` name the tool call that asks."""

    document: str
    target: str
    reason: str = ""
    dry_run: bool = False
    run_id: str = ""
    call_id: str = ""


class AbortExperiment(Command, frozen=True, kw_only=True):
    """End it now: everything is undone."""

    reason: str = ""


# ---- what happened


class Probed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer of a probe. ``held`` says whether it was within the tolerance; ``value`` is what it answered (at most
    2,000 characters), ``detail`` why it did not hold."""

    name: str
    held: bool
    at: datetime
    milliseconds: int = 0
    value: str = ""
    detail: str = ""


class ResolvedFault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a fault of the method would hit now, as a person calls the containers (``worker-2``)."""

    step: int
    name: str
    fault: Json
    containers: tuple[str, ...]
    peers: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that whoever owns the system should know. ``kind`` is a slug, ``about`` a probe, fault or step,
    ``recommendation`` what could be done about it."""

    kind: str
    about: str
    text: str
    recommendation: str = ""


class ExperimentRequested(Event, frozen=True, kw_only=True):
    """``document`` is as it was sent."""

    document: str
    title: str
    target: str
    host: str
    reason: str = ""
    by: str = ""
    dry_run: bool = False
    run_id: str = ""
    call_id: str = ""


class ExperimentValidated(Event, frozen=True, kw_only=True):
    """Nothing stands against it. ``deadline`` is when it is aborted at the latest."""

    faults: tuple[ResolvedFault, ...]
    deadline: datetime


class SteadyStateProbed(Event, frozen=True, kw_only=True):
    """The hypothesis, put to the test ``before`` the method or ``after`` it."""

    phase: str
    met: bool
    probes: tuple[Probed, ...]


class StepBegun(Event, frozen=True, kw_only=True):
    """A step of the method, counted from 0."""

    step: int
    name: str
    kind: str
    at: datetime


class StepEnded(Event, frozen=True, kw_only=True):
    """``succeeded`` is false where it could not be done; ``detail`` says why. ``probed`` is a probe's answer."""

    step: int
    name: str
    succeeded: bool
    at: datetime
    detail: str = ""
    probed: Probed | None = None


class FaultIntended(Event, frozen=True, kw_only=True):
    """Written before anything happens in the world. It ends at ``ends_at``, whoever lives then."""

    fault_id: str
    step: int
    fault: Json
    containers: tuple[str, ...]
    ends_at: datetime
    peers: tuple[str, ...] = ()


class FaultInjected(Event, frozen=True, kw_only=True):
    fault_id: str
    seconds: float


class FaultNotInjected(Event, frozen=True, kw_only=True):
    """It could not be made so; ``cause`` is a slug, ``detail`` what the engine said."""

    fault_id: str
    cause: str
    detail: str


class FaultUndone(Event, frozen=True, kw_only=True):
    """Nothing of it is left. ``seconds`` is how long undoing took, ``reason`` is ``ended`` or ``aborted``."""

    fault_id: str
    at: datetime
    seconds: float
    reason: str = "ended"


class FaultStuck(Event, frozen=True, kw_only=True):
    """Undoing left something: ``left`` says what, container by container. It is tried again."""

    fault_id: str
    at: datetime
    left: tuple[str, ...]


class SamplesRecorded(Event, frozen=True, kw_only=True):
    """What a probe that is sampled all the while answered between two times. ``failures`` are the first of those that
    did not hold, ``failed`` counts all of them."""

    probe: str
    began_at: datetime
    ended_at: datetime
    count: int
    failed: int = 0
    failures: tuple[Probed, ...] = ()


class GuardTripped(Event, frozen=True, kw_only=True):
    """A stop condition did not hold: the experiment is aborted."""

    probe: Probed


class ExperimentResumed(Event, frozen=True, kw_only=True):
    """Another process goes on with it; what was sampled is missing from when the one before ended."""

    host: str


class AbortRequested(Event, frozen=True, kw_only=True):
    """``cause`` is ``asked``, ``halted``, ``guard``, ``unobserved``, ``overdue`` or ``not-injected``."""

    cause: str
    detail: str = ""
    by: str = ""


class RollbackPerformed(Event, frozen=True, kw_only=True):
    number: int
    name: str
    succeeded: bool
    detail: str = ""


class RecoveryMeasured(Event, frozen=True, kw_only=True):
    """From the end of the last fault until the hypothesis held again."""

    seconds: float


class ExperimentCompleted(Event, frozen=True, kw_only=True):
    """Everything held."""

    summary: str
    findings: tuple[Finding, ...] = ()


class ExperimentDeviated(Event, frozen=True, kw_only=True):
    """Something did not hold: the findings say what."""

    summary: str
    findings: tuple[Finding, ...] = ()


class ExperimentAborted(Event, frozen=True, kw_only=True):
    """It was ended early and everything undone; it says nothing about the system."""

    cause: str
    summary: str
    findings: tuple[Finding, ...] = ()


class ExperimentRefused(Event, frozen=True, kw_only=True):
    """It never began: no fault was injected."""

    cause: str
    detail: str


Verdict = ExperimentCompleted | ExperimentDeviated | ExperimentAborted | ExperimentRefused

VERDICTS: dict[type[Event], str] = {
    ExperimentCompleted: "completed",
    ExperimentDeviated: "deviated",
    ExperimentAborted: "aborted",
    ExperimentRefused: "refused",
}


# ---- the state


class FaultState(msgspec.Struct, frozen=True, kw_only=True):
    """``undone`` holds where nothing of it is left in the world."""

    intended: FaultIntended
    injected: bool = False
    failure: FaultNotInjected | None = None
    undone: bool = False
    undone_at: datetime | None = None
    stuck: FaultStuck | None = None


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """All samples of one probe, added up; ``failures`` are the first ones that did not hold."""

    count: int = 0
    failed: int = 0
    first_failed_at: datetime | None = None
    last_failed_at: datetime | None = None
    failures: tuple[Probed, ...] = ()


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """``begun`` and ``ended`` are the steps by number; ``rollbacks`` those performed by number."""

    id: str
    requested: ExperimentRequested | None = None
    validated: ExperimentValidated | None = None
    before: SteadyStateProbed | None = None
    after: SteadyStateProbed | None = None
    begun: Map[int, StepBegun] = Map()
    ended: Map[int, StepEnded] = Map()
    faults: Map[str, FaultState] = Map()
    samples: Map[str, Samples] = Map()
    rollbacks: Map[int, RollbackPerformed] = Map()
    abort: AbortRequested | None = None
    guard: GuardTripped | None = None
    resumed: int = 0
    recovery_seconds: float | None = None
    verdict: Verdict | None = None

    @property
    def active(self) -> bool:
        """Whether somebody has to go on with it."""
        return self.validated is not None and self.verdict is None and not self._dry

    @property
    def status(self) -> str:
        """absent, checked (a dry run), validated, injecting, observing, aborting, reverted, or the verdict."""
        if self.verdict is not None:
            return VERDICTS[type(self.verdict)]
        if self.requested is None or self.validated is None:
            return "absent"
        if self._dry:
            return "checked"
        if self.abort is not None:
            return "aborting"
        if self.open_faults:
            return "observing" if all(fault.injected for fault in self.open_faults.values()) else "injecting"
        return "reverted" if self.faults else "validated"

    @property
    def open_faults(self) -> dict[str, FaultState]:
        """Those of which something may be left in the world."""
        return {id: fault for id, fault in self.faults.items() if not fault.undone}

    @property
    def _dry(self) -> bool:
        return self.requested is not None and self.requested.dry_run


MAX_FAILURES = 20


def _fault(state: Experiment, id: str, **changes: Any) -> Experiment:
    known = state.faults.get(id)
    return state if known is None else replace(state, faults=state.faults.set(id, replace(known, **changes)))


def _intended(state: Experiment, event: FaultIntended) -> Experiment:
    return replace(state, faults=state.faults.set(event.fault_id, FaultState(intended=event)))


def _sampled(state: Experiment, event: SamplesRecorded) -> Experiment:
    known = state.samples.get(event.probe, Samples())
    first, last = known.first_failed_at, known.last_failed_at
    if event.failures:
        first, last = first or event.failures[0].at, event.failures[-1].at
    added = Samples(
        count=known.count + event.count,
        failed=known.failed + event.failed,
        first_failed_at=first,
        last_failed_at=last,
        failures=(*known.failures, *event.failures)[:MAX_FAILURES],
    )
    return replace(state, samples=state.samples.set(event.probe, added))


def _verdict(state: Experiment, event: Verdict) -> Experiment:
    return replace(state, verdict=event)


EXPERIMENT: Entity[Experiment] = Entity(
    name="experiment",
    initial=lambda id: Experiment(id=id),
    evolve=evolver(
        {
            ExperimentRequested: lambda state, event: replace(state, requested=event),
            ExperimentValidated: lambda state, event: replace(state, validated=event),
            SteadyStateProbed: lambda state, event: replace(
                state, **{"before" if event.phase == "before" else "after": event}
            ),
            StepBegun: lambda state, event: replace(state, begun=state.begun.set(event.step, event)),
            StepEnded: lambda state, event: replace(state, ended=state.ended.set(event.step, event)),
            FaultIntended: _intended,
            FaultInjected: lambda state, event: _fault(state, event.fault_id, injected=True),
            FaultNotInjected: lambda state, event: _fault(state, event.fault_id, failure=event),
            FaultUndone: lambda state, event: _fault(
                state, event.fault_id, undone=True, undone_at=event.at, stuck=None
            ),
            FaultStuck: lambda state, event: _fault(state, event.fault_id, stuck=event),
            SamplesRecorded: _sampled,
            GuardTripped: lambda state, event: replace(state, guard=event),
            ExperimentResumed: lambda state, event: replace(state, resumed=state.resumed + 1),
            AbortRequested: lambda state, event: replace(state, abort=event),
            RollbackPerformed: lambda state, event: replace(state, rollbacks=state.rollbacks.set(event.number, event)),
            RecoveryMeasured: lambda state, event: replace(state, recovery_seconds=event.seconds),
            ExperimentCompleted: _verdict,
            ExperimentDeviated: _verdict,
            ExperimentAborted: _verdict,
            ExperimentRefused: _verdict,
        }
    ),
)
