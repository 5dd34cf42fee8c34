"""Less CPU for a container, by its own limits, and those restored exactly.

A limit that was given as CPUs (Compose's ``cpus``) has to be changed as such; without one, the quota is used, as the
engine knows no way to take CPUs away again (0 means "as it is"), while a quota of -1 is none.
"""

from __future__ import annotations

from events import faults
from events.faults import AnyFault
from infra.docker.engine import Json
from services.chaos.adapters.ground import Ground, Placed, refused
from services.chaos.adapters.marked import Marked

NANO = 1_000_000_000
PERIOD_MICROSECONDS = 100_000


class CpuLimit(Marked):
    def before(self, hit: Json, fault: AnyFault) -> Json:
        assert isinstance(fault, faults.CpuLimit)
        limits = hit["HostConfig"]
        before = {name: int(limits.get(name) or 0) for name in ("NanoCpus", "CpuQuota", "CpuPeriod")}
        if (now := _cpus(before)) and now <= fault.cpus:
            message = f"it has {now:g} CPUs as it is: a limit of {fault.cpus:g} takes nothing away."
            raise refused(message)
        return before

    async def begin(self, ground: Ground, placed: Placed, before: Json) -> None:
        assert isinstance(placed.fault, faults.CpuLimit)
        cpus = placed.fault.cpus
        if before["NanoCpus"]:
            limits = {"NanoCpus": round(cpus * NANO)}
        else:
            period = before["CpuPeriod"] or PERIOD_MICROSECONDS
            limits = {"CpuQuota": max(1000, round(cpus * period)), "CpuPeriod": period}
        await ground.engine.update(placed.side.container.id, limits)

    async def end(self, ground: Ground, hit: Json, before: Json) -> str:
        if before["NanoCpus"]:
            limits = {"NanoCpus": before["NanoCpus"]}
        else:
            limits = {"CpuQuota": before["CpuQuota"] or -1, "CpuPeriod": before["CpuPeriod"] or PERIOD_MICROSECONDS}
        await ground.engine.update(hit["Id"], limits)
        now = (await ground.engine.inspect(hit["Id"]))["HostConfig"]
        wrong = [f"{name} is {now.get(name)}" for name, value in limits.items() if int(now.get(name) or 0) != value]
        return ", ".join(wrong)


def _cpus(limits: Json) -> float:
    """How many CPUs these limits give; 0 where they are none."""
    if limits["NanoCpus"]:
        return float(limits["NanoCpus"]) / NANO
    return float(max(0, limits["CpuQuota"])) / (limits["CpuPeriod"] or PERIOD_MICROSECONDS)
