"""CPU taken away."""

from __future__ import annotations

import pytest

from events.errors import Permanent
from events.faults import CpuLimit
from infra.docker.engine import Json
from tests.docker.ground import Ground

pytestmark = pytest.mark.integration

# Seconds of CPU that a busy process gets in a second, and how often the kernel held its group back meanwhile.
BUSY = """
import time, json
def held_back():
    lines = open("/sys/fs/cgroup/cpu/cpu.stat").read().split()
    return int(lines[lines.index("nr_throttled") + 1])
began = time.monotonic(); used = time.process_time(); before = held_back()
while time.monotonic() < began + 1: pass
print(json.dumps([time.process_time() - used, held_back() - before]))
"""


async def limits(ground: Ground, name: str) -> Json:
    host = (await ground.engine.inspect(ground.made[name]))["HostConfig"]
    return {key: host[key] for key in ("NanoCpus", "CpuQuota", "CpuPeriod")}


async def test_a_tenth_of_a_cpu(ground: Ground) -> None:
    """A busy process gets a tenth of a CPU while the fault holds, and what there is afterwards."""
    await ground.up("api")
    await ground.inject(CpuLimit(service="api", cpus=0.1, duration_seconds=60))
    seconds, held_back = await ground.run("api", BUSY)
    await ground.undo()
    assert 0.01 < seconds < 0.2
    assert held_back > 0
    assert (await ground.run("api", BUSY))[1] == 0
    assert (await ground.shell("api", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us")).text == "-1\n"


async def test_limits_that_were_there_come_back(ground: Ground) -> None:
    """A limit that was given as CPUs, or as a quota, is afterwards what it was; a limit above it is refused."""
    await ground.up("api", NanoCpus=1_500_000_000)
    await ground.up("database", CpuQuota=60_000, CpuPeriod=50_000)
    before = [await limits(ground, name) for name in ("api", "database")]
    for number, name in enumerate(("api", "database")):
        await ground.inject(CpuLimit(service=name, cpus=0.2, duration_seconds=60), f"{ground.environment}-{number}")
    assert (await limits(ground, "api"))["NanoCpus"] == 200_000_000
    assert (await limits(ground, "database"))["CpuQuota"] == 10_000
    for number in range(2):
        await ground.undo(f"{ground.environment}-{number}")
    assert [await limits(ground, name) for name in ("api", "database")] == before
    with pytest.raises(Permanent, match=r"has 1.5 CPUs as it is: a limit of 1.8 takes nothing away"):
        await ground.inject(CpuLimit(service="api", cpus=1.8, duration_seconds=60))
