"""The main process of a container killed from the host, so that the restart policy acts; what stays down is started.

A container of ours with the host's processes and nothing but CAP_KILL does it, after it has seen in /proc that the
process is of that container.
"""

from __future__ import annotations

from services.chaos.adapters.ground import Ground, Placed, confined, inspect, refused, run_once
from services.chaos.adapters.kill_service import KillService


class CrashService(KillService):
    async def down(self, ground: Ground, placed: Placed) -> None:
        id = placed.side.container.id
        hit = await inspect(ground.engine, id)
        if hit is None or not hit["State"]["Pid"]:
            return
        place = {**confined("KILL"), "PidMode": "host", "CgroupnsMode": "host"}
        code, said = await run_once(
            ground, f"{placed.name}-crash", ["crash", str(hit["State"]["Pid"]), id], place, fault_id=placed.fault_id
        )
        if code:
            message = f"{placed.side.container.shown} could not be crashed: {said}"
            raise refused(message)
