"""The in-memory twin of the leases that are to be seen."""

from __future__ import annotations

from datetime import datetime, timedelta

from events.kernel import replace
from infra.ports import Clock, RunLease


class MemoryRunLeases:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[str, tuple[RunLease, datetime, datetime]] = {}

    def hold(self, lease: RunLease, seconds: float) -> None:
        now = self._clock.now()
        self._held[lease.run_id] = (lease, now, now + timedelta(seconds=max(1.0, seconds)))

    def release(self, run_id: str) -> None:
        self._held.pop(run_id, None)

    async def held(self) -> dict[str, RunLease]:
        now = self._clock.now()
        return {
            id: replace(
                lease, silent_seconds=(now - said_at).total_seconds(), lapses_seconds=(until - now).total_seconds()
            )
            for id, (lease, said_at, until) in self._held.items()
            if until > now
        }
