"""What an experiment has shown, for those who own the system: from its state to sentences and a verdict. Pure.

A finding quotes what the probe itself answered, so that "jobs 7 and 9 are missing" reaches whoever is to mend it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from events.experiment import (
    Experiment,
    ExperimentAborted,
    ExperimentCompleted,
    ExperimentDeviated,
    ExperimentRefused,
    Finding,
    Probed,
    Samples,
    SteadyStateProbed,
    Verdict,
)
from services.chaos.document import Continuous, Document

QUOTED_CHARACTERS = 600
QUOTED_ANSWERS = 3
SLOW_RECOVERY = 0.5

ADVICE = {
    "kill_service": "what it was doing has to be taken over by others or found again when it is back",
    "crash_service": "what it was doing has to be taken over by others or found again after its restart",
    "stop_service": "on SIGTERM it should finish or give back what it holds, and others should take over",
    "pause_service": "callers need time limits, and what a silent process holds a lease that lapses",
    "drop_network": "calls over this link need time limits, retries that are idempotent, and a way to reconnect",
    "add_latency": "time limits should leave room for slow answers, and retries must not pile up",
    "packet_loss": "calls over this link need retries that are idempotent",
    "limit_bandwidth": "large answers should be paged, and queues bounded",
    "dns_failure": "connections should be kept, and a failed look-up be tried again",
    "cpu_limit": "time limits and health checks should leave room for a slow process",
    "cpu_stress": "time limits and health checks should leave room for a slow process",
    "memory_stress": "memory use should be bounded, and a restart survived",
    "disk_fill": "a failed write has to be answered as a failure and tried again later",
}


def verdict(state: Experiment, document: Document) -> Verdict:
    """How it ended, with everything found."""
    if state.before is not None and not state.before.met and not state.begun:
        return ExperimentRefused(cause="steady-state-not-met", detail=_unsteady(state.before))
    found = tuple(findings(state, document))
    if state.abort is not None:
        detail = f": {state.abort.detail}" if state.abort.detail else ""
        return ExperimentAborted(
            cause=state.abort.cause, summary=f"It was aborted ({state.abort.cause}){detail}", findings=found
        )
    if not any(finding.kind in DEVIATIONS for finding in found):
        return ExperimentCompleted(summary=_held(state), findings=found)
    worst = next(finding for finding in found if finding.kind in DEVIATIONS)
    return ExperimentDeviated(summary=worst.text, findings=found)


DEVIATIONS = ("not-steady-after", "did-not-hold", "samples-failed", "step-failed", "stuck")


def findings(state: Experiment, document: Document) -> Iterable[Finding]:
    """Everything worth telling, the worst first."""
    advice = _advice(state)
    for continuous in document.observed:
        samples = state.samples.get(continuous.probe.name, Samples())
        if samples.count == 0 and state.begun and state.abort is None:
            text = f"{continuous.probe.name} was never answered while the faults were there"
            yield Finding(kind="samples-failed", about=continuous.probe.name, text=text)
        elif samples.failed and samples.failed > (1 - continuous.hold) * samples.count + 1e-9:
            text = _sampled(continuous, samples)
            yield Finding(kind="samples-failed", about=continuous.probe.name, text=text, recommendation=advice)
    if state.after is not None and not state.after.met:
        waited = f"{document.recovery_seconds:g} s after the last fault"
        text = f"{waited}, the steady state is not back: {_unsteady(state.after)}"
        yield Finding(kind="not-steady-after", about="steady state", text=text, recommendation=advice)
    for number, ended in sorted(state.ended.items()):
        if not ended.succeeded:
            yield Finding(kind="step-failed", about=ended.name, text=f"{ended.name} could not be done: {ended.detail}")
        elif ended.probed is not None and not ended.probed.held:
            text = f"{ended.name} (step {number}) did not hold: {_answer(ended.probed)}"
            yield Finding(kind="did-not-hold", about=ended.name, text=text, recommendation=advice)
    for number, rolled in sorted(state.rollbacks.items()):
        if not rolled.succeeded:
            text = f"rollback {number}, {rolled.name}, could not be done: {rolled.detail}"
            yield Finding(kind="step-failed", about=rolled.name, text=text)
    for fault in state.open_faults.values():
        left = "; ".join(fault.stuck.left) if fault.stuck is not None else "undoing it did not end"
        text = f"{fault.intended.fault.get('kind')} is not undone: {left}"
        yield Finding(
            kind="stuck",
            about=fault.intended.fault_id,
            text=text,
            recommendation="cairn chaos show says when it is gone",
        )
    if state.guard is not None:
        text = f"the guard {state.guard.probe.name} tripped: {_answer(state.guard.probe)}"
        yield Finding(kind="guard", about=state.guard.probe.name, text=text, recommendation=advice)
    for continuous in document.observed:
        samples = state.samples.get(continuous.probe.name, Samples())
        if samples.failed and samples.failed <= (1 - continuous.hold) * samples.count + 1e-9:
            yield Finding(kind="samples-tolerated", about=continuous.probe.name, text=_sampled(continuous, samples))
    if state.recovery_seconds is not None:
        text = f"the steady state was back {state.recovery_seconds:.1f} s after the last fault ended"
        slow = state.recovery_seconds > SLOW_RECOVERY * document.recovery_seconds
        recommendation = f"that is close to the {document.recovery_seconds:g} s that it may take" if slow else ""
        yield Finding(kind="recovery", about="steady state", text=text, recommendation=recommendation)


def _sampled(continuous: Continuous, samples: Samples) -> str:
    between = ""
    if samples.first_failed_at is not None and samples.last_failed_at is not None:
        between = f" between {_clock(samples.first_failed_at)} and {_clock(samples.last_failed_at)}"
    answers = dict.fromkeys(_answer(probed) for probed in samples.failures)
    quoted = "; ".join(list(answers)[:QUOTED_ANSWERS])
    wanted = "" if continuous.hold >= 1 else f", {continuous.hold:.1%} have to hold"
    return f"{samples.failed} of {samples.count} samples of {continuous.probe.name} failed{between}{wanted}: {quoted}"


def _unsteady(probed: SteadyStateProbed) -> str:
    return "; ".join(f"{probe.name}: {_answer(probe)}" for probe in probed.probes if not probe.held)


def _answer(probed: Probed) -> str:
    value = probed.value.strip()
    shown = value if len(value) <= QUOTED_CHARACTERS else f"…{value[-QUOTED_CHARACTERS:]}"
    return f"{probed.detail} ({shown})" if probed.detail and shown else probed.detail or shown


def _advice(state: Experiment) -> str:
    kinds = dict.fromkeys(str(fault.intended.fault.get("kind")) for fault in state.faults.values())
    return "; ".join(f"{kind}: {ADVICE[kind]}" for kind in kinds if kind in ADVICE)


def _held(state: Experiment) -> str:
    samples = sum(item.count for item in state.samples.values())
    parts = [f"{len(state.faults)} fault{'s' if len(state.faults) != 1 else ''} injected and undone"]
    if samples:
        parts.append(f"{samples} samples within tolerance")
    if state.recovery_seconds is not None:
        parts.append(f"steady again after {state.recovery_seconds:.1f} s")
    return ", ".join(parts)


def _clock(at: datetime) -> str:
    return at.strftime("%H:%M:%S.%f")[:-5]
