"""Faults that the engine itself does to a container. Their record is a container that is never started."""

from __future__ import annotations

from events.faults import AnyFault
from infra.docker.engine import Json
from services.chaos.adapters import records
from services.chaos.adapters.ground import Ground, Method, Placed, confined, create_once


class Marked(Method):
    """The mark is made before anything is done, and holds what was there before. ``begin`` is called again after a
    crash in between, with the same ``before``: it does nothing where it was done."""

    async def inject(self, ground: Ground, placed: Placed) -> None:
        before = self.before(placed.hit, placed.fault)
        configuration: Json = {
            "Image": ground.image,
            "Cmd": ["undo"],
            "Labels": placed.labels(ground, before),
            "HostConfig": confined(),
        }
        mark, _ = await create_once(ground.engine, configuration, placed.name)
        kept = records.before((await ground.engine.inspect(mark))["Config"]["Labels"])
        await self.begin(ground, placed, kept)

    async def undo(self, ground: Ground, record: Json, hit: Json | None) -> str:
        of = record["Config"]["Labels"]
        left = "" if hit is None else await self.end(ground, hit, records.before(of))
        if not left:
            await ground.engine.remove(record["Id"])
        return left

    def before(self, hit: Json, fault: AnyFault) -> Json:
        """What undoing needs to know. Raises ``Permanent`` where the container is in no state for this."""
        raise NotImplementedError

    async def begin(self, ground: Ground, placed: Placed, before: Json) -> None:
        raise NotImplementedError

    async def end(self, ground: Ground, hit: Json, before: Json) -> str:
        """Idempotent; answers what is left."""
        raise NotImplementedError


def same_start(hit: Json, before: Json) -> bool:
    """Whether the container still runs as it did when the mark was made."""
    return bool(hit["State"]["Running"]) and hit["State"]["StartedAt"] == before["started_at"]
