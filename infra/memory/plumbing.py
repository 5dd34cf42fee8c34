"""All in-memory twins in one, with the face of ``infra.jetstream.connection.JetStream``."""

from __future__ import annotations

from collections.abc import Callable

from infra.clock import SystemClock
from infra.memory.command_bus import MemoryCommandBus
from infra.memory.event_log import MemoryEventLog
from infra.memory.host_registry import MemoryHostRegistry
from infra.memory.queues import MemoryCommandSource
from infra.memory.run_leases import MemoryRunLeases
from infra.memory.stores import MemoryContentStore, MemoryDeadLetters, MemoryOutputStore
from infra.ports import Clock


class Memory:
    """``log``, ``commands``, ``source``, ``content``, ``output``, ``dead_letters``, ``hosts`` and ``leases``
    implement ``infra.ports``."""

    connected = True

    def __init__(self, tenant: str = "default", clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.log = MemoryEventLog(tenant, clock)
        self.source = MemoryCommandSource(clock)
        self.commands = MemoryCommandBus(self.source, tenant, clock)
        self.content = MemoryContentStore()
        self.output = MemoryOutputStore(clock)
        self.dead_letters = MemoryDeadLetters(self.source, clock)
        self.hosts = MemoryHostRegistry(clock)
        self.leases = MemoryRunLeases(clock)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """The connection never breaks, so ``callback`` is never called."""

    async def ensure_streams(self) -> None:
        """They are there."""

    async def close(self) -> None:
        """End the timers."""
        await self.source.close()
