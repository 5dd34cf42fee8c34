"""The in-memory twin of the signs of life of hosts."""

from __future__ import annotations

from datetime import datetime

from infra.ports import Clock


class MemoryHostRegistry:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made_at = clock.now()
        self._heard_at: dict[str, datetime] = {}

    def announce(self, host: str) -> None:
        self._heard_at[host] = self._clock.now()

    async def silent_seconds(self, host: str) -> float:
        return max(0.0, (self._clock.now() - self._heard_at.get(host, self._made_at)).total_seconds())

    async def all(self) -> dict[str, float]:
        return {host: await self.silent_seconds(host) for host in self._heard_at}
