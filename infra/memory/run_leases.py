"""The in-memory twin of the leases that are to be seen."""

from __future__ import annotations

from datetime import datetime, timedelta

from infra.ports import Clock, RunLease


class MemoryRunLeases:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[str, tuple[RunLease, datetime]] = {}

    def hold(self, lease: RunLease, seconds: float) -> None:
        self._held[lease.run_id] = (lease, self._clock.now() + timedelta(seconds=max(1.0, seconds)))

    def release(self, run_id: str) -> None:
        self._held.pop(run_id, None)

    async def held(self) -> dict[str, RunLease]:
        now = self._clock.now()
        return {id: lease for id, (lease, until) in self._held.items() if until > now}
