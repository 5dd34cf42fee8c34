"""When a breaker opens and closes, and which run probes. A report that comes again, or too late, decides nothing."""

from __future__ import annotations

from datetime import datetime, timedelta

from events.breaker import (
    Breaker,
    BreakerClosed,
    BreakerOpened,
    FaultsForgotten,
    ProbeFailed,
    ProbeStarted,
    ProviderFaultCounted,
    RecordProviderAnswer,
    RecordProviderFault,
    RequestProbe,
)
from events.kernel import Event

Events = tuple[Event, ...]


def record_fault(
    breaker: Breaker, command: RecordProviderFault, *, now: datetime, failures: int, open_seconds: float
) -> Events:
    """Count a failure; so many ``failures`` in a row open the breaker for ``open_seconds``, and a provider that names
    a longer time is left alone for that long. While it is open only the probe's failure says anything: what else
    fails then was under way before."""
    if command.fault_id in breaker.counted or not breaker.lets(command.run_id):
        return ()
    until = now + timedelta(seconds=max(open_seconds, command.retry_after_seconds))
    if breaker.until is not None:
        return (
            ProbeFailed(
                run_id=command.run_id,
                fault_id=command.fault_id,
                cause=command.cause,
                detail=command.detail,
                until=until,
            ),
        )
    counted = ProviderFaultCounted(
        credential=command.credential,
        run_id=command.run_id,
        fault_id=command.fault_id,
        cause=command.cause,
        detail=command.detail,
    )
    in_a_row = len(breaker.faults) + 1
    if in_a_row < failures:
        return (counted,)
    opened = BreakerOpened(
        credential=command.credential, failures=in_a_row, cause=command.cause, detail=command.detail, until=until
    )
    return (counted, opened)


def record_answer(breaker: Breaker, command: RecordProviderAnswer) -> Events:
    """The provider is there: that ends the row, and closes the breaker where it is the probe that was answered."""
    if breaker.until is None:
        return (FaultsForgotten(run_id=command.run_id),) if breaker.faults else ()
    if breaker.probe != command.run_id:
        return ()
    return (BreakerClosed(credential=breaker.credential, run_id=command.run_id),)


def request_probe(breaker: Breaker, command: RequestProbe, *, now: datetime, is_probing: bool) -> Events:
    """Let the run probe where the breaker's time is over and no other run does. ``is_probing``: the breaker's probe
    is a run that somebody still asks for."""
    if breaker.until is None or breaker.until > now or breaker.probe == command.run_id:
        return ()
    return () if breaker.probe and is_probing else (ProbeStarted(run_id=command.run_id),)
