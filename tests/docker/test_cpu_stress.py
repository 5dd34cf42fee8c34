"""Busy neighbours in a container's own limits."""

from __future__ import annotations

import pytest

from events.faults import CpuStress
from tests.docker.ground import Ground

pytestmark = pytest.mark.integration

# Seconds of CPU that are charged to the container, all its processes together, and in how long; until it is a fifth of
# a second, or the time is over.
CHARGED = """
import json, sys, time
def used(): return int(open("/sys/fs/cgroup/cpuacct/cpuacct.usage").read()) / 1e9
before = used(); began = time.monotonic()
while used() - before < 0.2 and time.monotonic() < began + float(sys.argv[1]): time.sleep(0.1)
print(json.dumps([used() - before, time.monotonic() - began]))
"""


async def test_it_is_charged_to_the_service(ground: Ground) -> None:
    """Idle containers use nothing; with the fault the one that is hit uses CPU up to its own limit, the other none."""
    await ground.up("api", "cache", NanoCpus=500_000_000)
    await ground.inject(CpuStress(service="api", workers=2, duration_seconds=60))
    used, seconds = await ground.run("api", CHARGED, 20)
    assert used >= 0.2
    assert used / seconds < 0.7
    assert (await ground.run("cache", CHARGED, 0.5))[0] < 0.05
    await ground.undo()
    assert (await ground.run("api", CHARGED, 0.5))[0] < 0.05
