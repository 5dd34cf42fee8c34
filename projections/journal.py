"""The journal of an experiment in the Chaos Toolkit's shape (https://chaostoolkit.org/reference/api/journal/), made
from its events: whatever reads those journals reads ours. What that shape has no place for is under ``cairn``. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from events.envelope import Recorded
from events.experiment import (
    EXPERIMENT,
    Experiment,
    ExperimentAborted,
    ExperimentRequested,
    FaultInjected,
    FaultIntended,
    FaultNotInjected,
    FaultUndone,
    Probed,
    RollbackPerformed,
    SteadyStateProbed,
    StepBegun,
    StepEnded,
)
from infra import yaml_text

Json = dict[str, Any]

# What we call how it ended → what the Chaos Toolkit does.
STATUS = {"completed": "completed", "deviated": "completed", "aborted": "aborted", "refused": "failed"}


def journal(id: str, records: Sequence[Recorded]) -> Json:
    """``records`` are all decisions of the experiment, in order. Times are UTC without an offset, as there."""
    state = EXPERIMENT.fold(id, [event for record in records for event in record.envelope.events])
    began = records[0].envelope.time
    ended = records[-1].envelope.time
    steady: Json = {"before": None, "after": None, "during": []}
    run: list[Json] = []
    rollbacks: list[Json] = []
    for record in records:
        for event in record.envelope.events:
            if isinstance(event, SteadyStateProbed):
                steady[event.phase] = _steady(event)
            elif isinstance(event, StepEnded):
                run.append(_step(state, event))
            elif isinstance(event, RollbackPerformed):
                rollbacks.append(_rollback(event, record.envelope.time))
    requested = state.requested
    return {
        "chaoslib-version": "",
        "platform": "cairn",
        "node": requested.host if requested is not None else "",
        "experiment": _document(requested.document) if requested is not None else {},
        "start": _time(began),
        "status": STATUS.get(state.status, "running"),
        "deviated": state.status == "deviated",
        "steady_states": steady,
        "run": run,
        "rollbacks": rollbacks,
        "end": _time(ended) if state.verdict is not None else None,
        "duration": (ended - began).total_seconds(),
        "cairn": _ours(state, records),
    }


def _document(text: str) -> Json:
    """The experiment as it was asked for; what could not be read stands as it is."""
    try:
        document = yaml_text.read(text)
    except yaml_text.NotReadable:
        document = None
    return document if isinstance(document, dict) else {"document": text}


def _steady(event: SteadyStateProbed) -> Json:
    return {"steady_state_met": event.met, "probes": [_probe(probed) for probed in event.probes]}


def _probe(probed: Probed, name: str = "") -> Json:
    return {
        "activity": {"type": "probe", "name": name or probed.name},
        "output": probed.value,
        "status": "succeeded" if probed.held else "failed",
        "start": _time(probed.at),
        "end": _time(probed.at + timedelta(milliseconds=probed.milliseconds)),
        "duration": probed.milliseconds / 1000,
        "tolerance_met": probed.held,
        **({"exception": [probed.detail]} if probed.detail else {}),
    }


def _step(state: Experiment, event: StepEnded) -> Json:
    if event.probed is not None:
        return _probe(event.probed, event.name)
    begun: StepBegun | None = state.begun.get(event.step)
    began = begun.at if begun is not None else event.at
    fault = next((item for item in state.faults.values() if item.intended.step == event.step), None)
    activity: Json = {"type": "action", "name": event.name}
    if fault is not None:
        activity["provider"] = {"type": "fault", **fault.intended.fault}
    return {
        "activity": activity,
        "output": list(fault.intended.containers) if fault is not None else event.detail,
        "status": "succeeded" if event.succeeded else "failed",
        "start": _time(began),
        "end": _time(event.at),
        "duration": (event.at - began).total_seconds(),
    }


def _rollback(event: RollbackPerformed, at: datetime) -> Json:
    return {
        "activity": {"type": "action", "name": event.name},
        "output": event.detail,
        "status": "succeeded" if event.succeeded else "failed",
        "start": _time(at),
        "end": _time(at),
        "duration": 0.0,
    }


def _ours(state: Experiment, records: Sequence[Recorded]) -> Json:
    faults: dict[str, Json] = {}
    for record in records:
        for event in record.envelope.events:
            match event:
                case FaultIntended():
                    faults[event.fault_id] = {
                        "fault": event.fault,
                        "containers": list(event.containers),
                        "peers": list(event.peers),
                        "intended": _time(record.envelope.time),
                        "ends_at": _time(event.ends_at),
                    }
                case FaultInjected():
                    faults[event.fault_id] |= {"injected": _time(record.envelope.time), "inject_seconds": event.seconds}
                case FaultNotInjected():
                    faults[event.fault_id] |= {"refused": f"{event.cause}: {event.detail}"}
                case FaultUndone():
                    faults[event.fault_id] |= {
                        "undone": _time(event.at), "undo_seconds": event.seconds, "reason": event.reason
                    }  # fmt: skip
                case _:
                    pass
    requested: ExperimentRequested | None = state.requested
    return {
        "id": state.id,
        "status": state.status,
        "target": requested.target if requested is not None else "",
        "reason": requested.reason if requested is not None else "",
        "by": requested.by if requested is not None else "",
        "faults": faults,
        "samples": {name: msgspec.to_builtins(samples) for name, samples in state.samples.items()},
        "recovery_seconds": state.recovery_seconds,
        "aborted_because": state.verdict.cause if isinstance(state.verdict, ExperimentAborted) else "",
        "findings": msgspec.to_builtins(getattr(state.verdict, "findings", ())),
        "summary": getattr(state.verdict, "summary", getattr(state.verdict, "detail", "")),
    }


def _time(at: datetime) -> str:
    return at.replace(tzinfo=None).isoformat()
