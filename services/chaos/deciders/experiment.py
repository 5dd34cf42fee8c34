"""What may follow in an experiment. Each function takes the state; what is known already is not said again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from events.errors import CommandRejected, NotFound
from events.experiment import (
    AbortExperiment,
    AbortRequested,
    Experiment,
    ExperimentRefused,
    ExperimentRequested,
    ExperimentResumed,
    ExperimentValidated,
    FaultInjected,
    FaultIntended,
    FaultNotInjected,
    FaultStuck,
    FaultUndone,
    GuardTripped,
    RecoveryMeasured,
    ResolvedFault,
    RollbackPerformed,
    SamplesRecorded,
    SteadyStateProbed,
    StepBegun,
    StepEnded,
)
from events.kernel import Event
from services.chaos import findings
from services.chaos.document import Document

Events = tuple[Event, ...]


def refuse(state: Experiment, requested: ExperimentRequested, cause: str, detail: str) -> Events:
    """Said as an event: whoever asked may wait for it."""
    return () if state.requested is not None else (requested, ExperimentRefused(cause=cause, detail=detail))


def validate(
    state: Experiment,
    requested: ExperimentRequested,
    faults: Iterable[ResolvedFault],
    *,
    now: datetime,
    longest_seconds: float,
) -> Events:
    if state.requested is not None:
        return ()
    deadline = now + timedelta(seconds=longest_seconds)
    return (requested, ExperimentValidated(faults=tuple(faults), deadline=deadline))


def abort(state: Experiment, command: AbortExperiment, *, by: str) -> Events:
    """A person's or a program's wish; one that has ended stays as it is."""
    if state.requested is None:
        message = f"there is no experiment {state.id!r}: see cairn chaos list."
        raise NotFound(message, slug="experiment-not-found")
    if not state.active:
        if state.abort is not None:
            return ()
        message = f"experiment {state.id} has ended already: it is {state.status}."
        raise CommandRejected(message, slug="experiment-ended")
    return call_off(state, "asked", command.reason, by=by)


def call_off(state: Experiment, cause: str, detail: str, *, by: str = "") -> Events:
    return (AbortRequested(cause=cause, detail=detail, by=by),) if state.active and state.abort is None else ()


def resume(state: Experiment, document: Document, host: str) -> Events:
    """Another process goes on. What was to be sampled all the while has a gap: its verdict could not be trusted."""
    if not state.active:
        return ()
    resumed = ExperimentResumed(host=host)
    if document.observed and state.begun and state.abort is None:
        detail = "the chaos service was restarted, and nobody watched meanwhile"
        return (resumed, *call_off(state, "unobserved", detail))
    return (resumed,)


def record_before(state: Experiment, probed: SteadyStateProbed) -> Events:
    return () if state.before is not None or not state.active else (probed,)


def record_after(state: Experiment, probed: SteadyStateProbed, recovery_seconds: float | None) -> Events:
    if state.after is not None or not state.active:
        return ()
    return (probed,) if recovery_seconds is None else (RecoveryMeasured(seconds=recovery_seconds), probed)


def begin_step(state: Experiment, begun: StepBegun) -> Events:
    return () if begun.step in state.begun or not state.active else (begun,)


def end_step(state: Experiment, ended: StepEnded) -> Events:
    return () if ended.step in state.ended or not state.active else (ended,)


def intend(state: Experiment, intended: FaultIntended) -> Events:
    """Nothing once it is called off: what was not begun is not begun any more."""
    goes_on = state.active and state.abort is None and intended.fault_id not in state.faults
    return (intended,) if goes_on else ()


def record_injected(state: Experiment, injected: FaultInjected) -> Events:
    fault = state.faults.get(injected.fault_id)
    return () if fault is None or fault.injected or fault.undone else (injected,)


def record_not_injected(state: Experiment, failed: FaultNotInjected) -> Events:
    fault = state.faults.get(failed.fault_id)
    return () if fault is None or fault.failure is not None or fault.undone else (failed,)


def record_undone(state: Experiment, undone: FaultUndone) -> Events:
    fault = state.faults.get(undone.fault_id)
    return () if fault is None or fault.undone else (undone,)


def record_stuck(state: Experiment, stuck: FaultStuck) -> Events:
    fault = state.faults.get(stuck.fault_id)
    if fault is None or fault.undone or (fault.stuck is not None and fault.stuck.left == stuck.left):
        return ()
    return (stuck,)


def record_samples(state: Experiment, samples: Iterable[SamplesRecorded]) -> Events:
    return tuple(item for item in samples if item.count) if state.active else ()


def trip(state: Experiment, tripped: GuardTripped) -> Events:
    if not state.active or state.abort is not None:
        return ()
    return (tripped, *call_off(state, "guard", f"{tripped.probe.name} did not hold"))


def record_rollback(state: Experiment, performed: RollbackPerformed) -> Events:
    return () if performed.number in state.rollbacks or not state.active else (performed,)


def conclude(state: Experiment, document: Document) -> Events:
    return (findings.verdict(state, document),) if state.active else ()
