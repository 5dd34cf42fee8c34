"""All processes of a container frozen by the engine, and thawed."""

from __future__ import annotations

import contextlib

from events.faults import AnyFault
from infra.docker.engine import Conflicts, Json
from services.chaos.adapters.ground import Ground, Placed, inspect, refused
from services.chaos.adapters.marked import Marked, same_start


class PauseService(Marked):
    def before(self, hit: Json, fault: AnyFault) -> Json:
        return {"started_at": hit["State"]["StartedAt"]}

    async def begin(self, ground: Ground, placed: Placed, before: Json) -> None:
        hit = await inspect(ground.engine, placed.side.container.id)
        if hit is not None and same_start(hit, before) and not hit["State"]["Paused"]:
            with contextlib.suppress(Conflicts):  # It ended, or somebody else paused it.
                await ground.engine.pause(hit["Id"])

    async def end(self, ground: Ground, hit: Json, before: Json) -> str:
        if hit["State"]["Paused"]:
            await ground.engine.unpause(hit["Id"])
            hit = await inspect(ground.engine, hit["Id"]) or {"State": {"Paused": False}}
        return "it is still paused" if hit["State"]["Paused"] else ""


def check_awake(hit: Json, shown: str) -> None:
    """Raises ``Permanent`` where the container is paused, by somebody who is not us."""
    if hit["State"]["Paused"]:
        message = f"{shown} is paused already, by somebody else: unpause it first."
        raise refused(message)
