"""Breakers: one row for each credential that ever failed."""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.breaker import (
    BreakerClosed,
    BreakerOpened,
    FaultsForgotten,
    ProbeFailed,
    ProbeStarted,
    ProviderFaultCounted,
)
from events.envelope import Envelope
from projections.projection import Projection, plain, replace


class BreakerRow(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    credential: str = ""
    status: str = "closed"
    failures: int = 0
    cause: str = ""
    detail: str = ""
    until: datetime | None = None
    probe: str = ""
    updated_at: datetime
    sequence: int = 0


def _counted(row: BreakerRow, event: ProviderFaultCounted, envelope: Envelope) -> BreakerRow:
    return replace(row, credential=event.credential, failures=row.failures + 1, cause=event.cause, detail=event.detail)


def _failed(row: BreakerRow, event: ProbeFailed, envelope: Envelope) -> BreakerRow:
    return replace(
        row,
        status="open",
        failures=row.failures + 1,
        cause=event.cause,
        detail=event.detail,
        until=event.until,
        probe="",
    )


BREAKERS: Projection[BreakerRow] = plain(
    "breakers",
    BreakerRow,
    lambda id, time: BreakerRow(id=id, updated_at=time),
    {
        ProviderFaultCounted: _counted,
        FaultsForgotten: lambda row, event, envelope: replace(row, failures=0),
        BreakerOpened: lambda row, event, envelope: replace(row, status="open", until=event.until, probe=""),
        ProbeStarted: lambda row, event, envelope: replace(row, status="half_open", probe=event.run_id),
        ProbeFailed: _failed,
        BreakerClosed: lambda row, event, envelope: replace(row, status="closed", failures=0, until=None, probe=""),
    },
)
