"""The in-memory twin of the signs of life of hosts."""

from __future__ import annotations

from datetime import datetime

from infra.ports import Clock, HostSign


class MemoryHostRegistry:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made_at = clock.now()
        self._heard_at: dict[str, datetime] = {}
        self._notes: dict[str, bytes] = {}

    def announce(self, host: str, note: bytes = b"") -> None:
        self._heard_at[host] = self._clock.now()
        self._notes[host] = note

    async def silent_seconds(self, host: str) -> float:
        return max(0.0, (self._clock.now() - self._heard_at.get(host, self._made_at)).total_seconds())

    async def all(self) -> dict[str, HostSign]:
        return {host: HostSign(await self.silent_seconds(host), self._notes[host]) for host in self._heard_at}
