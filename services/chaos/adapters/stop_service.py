"""A container asked to end (SIGTERM, after the grace SIGKILL); the engine keeps it down; undone by a start."""

from __future__ import annotations

from events import faults
from services.chaos.adapters.ground import Ground, Placed
from services.chaos.adapters.kill_service import KillService


class StopService(KillService):
    async def down(self, ground: Ground, placed: Placed) -> None:
        assert isinstance(placed.fault, faults.StopService)
        await ground.engine.stop(placed.side.container.id, grace_seconds=placed.fault.grace_seconds)
