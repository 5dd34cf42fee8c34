"""Experiments: one row each; and what holds for chaos as a whole: a row for the halt and one for each host."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from events.chaos import ChaosCapabilitiesFound, ChaosHalted, ChaosResumed
from events.envelope import Envelope
from events.experiment import (
    VERDICTS,
    AbortRequested,
    ExperimentAborted,
    ExperimentCompleted,
    ExperimentDeviated,
    ExperimentRefused,
    ExperimentRequested,
    ExperimentValidated,
    FaultInjected,
    FaultIntended,
    FaultNotInjected,
    FaultStuck,
    FaultUndone,
    RecoveryMeasured,
)
from projections.projection import Projection, json_text, plain, replace

EMPTY_LIST = "[]"


class ExperimentRow(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    title: str = ""
    target: str = ""
    host: str = ""
    reason: str = ""
    requested_by: str = ""
    run_id: str = ""
    call_id: str = ""
    dry_run: bool = False
    status: str = "validated"
    cause: str = ""
    summary: str = ""
    findings: str = EMPTY_LIST
    faults: str = EMPTY_LIST
    recovery_seconds: float | None = None
    requested_at: datetime
    ended_at: datetime | None = None
    updated_at: datetime
    sequence: int = 0


class FaultView(msgspec.Struct, frozen=True, kw_only=True):
    """``state`` is planned, intended, injected, refused, stuck or undone."""

    fault_id: str
    fault: dict[str, Any]
    containers: tuple[str, ...]
    peers: tuple[str, ...] = ()
    state: str = "intended"
    ends_at: datetime | None = None
    detail: str = ""


_faults: msgspec.json.Decoder[list[FaultView]] = msgspec.json.Decoder(list[FaultView])


def _requested(row: ExperimentRow, event: ExperimentRequested, envelope: Envelope) -> ExperimentRow:
    return replace(
        row,
        title=event.title,
        target=event.target,
        host=event.host,
        reason=event.reason,
        requested_by=event.by,
        run_id=event.run_id,
        call_id=event.call_id,
        dry_run=event.dry_run,
    )


def _validated(row: ExperimentRow, event: ExperimentValidated, envelope: Envelope) -> ExperimentRow:
    planned = [
        FaultView(
            fault_id=f"{row.id}-f{resolved.step}",
            fault=resolved.fault,
            containers=resolved.containers,
            peers=resolved.peers,
            state="planned",
        )
        for resolved in event.faults
    ]
    return replace(row, status="checked" if row.dry_run else "validated", faults=json_text(planned))


def _intended(row: ExperimentRow, event: FaultIntended, envelope: Envelope) -> ExperimentRow:
    view = FaultView(
        fault_id=event.fault_id,
        fault=event.fault,
        containers=event.containers,
        peers=event.peers,
        ends_at=event.ends_at,
    )
    others = [fault for fault in _faults.decode(row.faults) if fault.fault_id != event.fault_id]
    return replace(row, faults=json_text([*others, view]), status="injecting")


def _fault(row: ExperimentRow, id: str, state: str, status: str, detail: str = "") -> ExperimentRow:
    faults = [
        replace(fault, state=state, detail=detail) if fault.fault_id == id else fault
        for fault in _faults.decode(row.faults)
    ]
    open_faults = any(fault.state in ("intended", "injected", "stuck") for fault in faults)
    ended = row.ended_at is not None or row.status == "aborting"
    shown = row.status if ended else status if open_faults else "reverted"
    return replace(row, faults=json_text(faults), status=shown)


def _ended(row: ExperimentRow, event: Any, envelope: Envelope) -> ExperimentRow:
    refused = isinstance(event, ExperimentRefused)
    return replace(
        row,
        status=VERDICTS[type(event)],
        cause=getattr(event, "cause", ""),
        summary=event.detail if refused else event.summary,
        findings=EMPTY_LIST if refused else json_text(event.findings),
        ended_at=envelope.time,
    )


EXPERIMENTS: Projection[ExperimentRow] = plain(
    "experiments",
    ExperimentRow,
    lambda id, time: ExperimentRow(id=id, requested_at=time, updated_at=time),
    {
        ExperimentRequested: _requested,
        ExperimentValidated: _validated,
        FaultIntended: _intended,
        FaultInjected: lambda row, event, envelope: _fault(row, event.fault_id, "injected", "observing"),
        FaultNotInjected: lambda row, event, envelope: _fault(
            row, event.fault_id, "refused", "aborting", f"{event.cause}: {event.detail}"
        ),
        FaultUndone: lambda row, event, envelope: _fault(row, event.fault_id, "undone", "observing"),
        FaultStuck: lambda row, event, envelope: _fault(
            row, event.fault_id, "stuck", "observing", "; ".join(event.left)
        ),
        AbortRequested: lambda row, event, envelope: replace(row, status="aborting", cause=event.cause),
        RecoveryMeasured: lambda row, event, envelope: replace(row, recovery_seconds=event.seconds),
        ExperimentCompleted: _ended,
        ExperimentDeviated: _ended,
        ExperimentAborted: _ended,
        ExperimentRefused: _ended,
    },
)


class ChaosRow(msgspec.Struct, frozen=True, kw_only=True):
    """``host`` is empty in the row of the halt."""

    id: str
    host: str = ""
    halted: bool = False
    reason: str = ""
    halted_by: str = ""
    faults: str = "{}"
    updated_at: datetime
    sequence: int = 0


CHAOS_ROWS: Projection[ChaosRow] = plain(
    "chaos",
    ChaosRow,
    lambda id, time: ChaosRow(id=id, updated_at=time),
    {
        ChaosHalted: lambda row, event, envelope: replace(row, halted=True, reason=event.reason, halted_by=event.by),
        ChaosResumed: lambda row, event, envelope: replace(row, halted=False, reason=event.reason, halted_by=""),
        ChaosCapabilitiesFound: lambda row, event, envelope: replace(
            row, host=event.host, faults=json_text(event.faults)
        ),
    },
)
