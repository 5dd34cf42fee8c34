"""A container ended by SIGKILL through the engine, which then keeps it down whatever its restart policy; undone by a
start."""

from __future__ import annotations

import contextlib

from events.errors import Permanent
from events.faults import AnyFault
from infra.docker.engine import Conflicts, Json
from services.chaos.adapters.ground import Ground, Placed, inspect
from services.chaos.adapters.marked import Marked, same_start


class KillService(Marked):
    def before(self, hit: Json, fault: AnyFault) -> Json:
        return {"started_at": hit["State"]["StartedAt"]}

    async def begin(self, ground: Ground, placed: Placed, before: Json) -> None:
        hit = await inspect(ground.engine, placed.side.container.id)
        if hit is not None and same_start(hit, before):
            with contextlib.suppress(Conflicts):  # It ended by itself meanwhile.
                await self.down(ground, placed)

    async def down(self, ground: Ground, placed: Placed) -> None:
        await ground.engine.kill(placed.side.container.id)

    async def end(self, ground: Ground, hit: Json, before: Json) -> str:
        """One that was started by somebody else runs already, and one that is restarting will."""
        try:
            await ground.engine.start(hit["Id"])
        except Permanent as error:
            return f"it does not start: {error}"
        return ""
