"""Busy neighbours in a container's own limits."""

from __future__ import annotations

import pytest

from events.faults import CpuStress
from tests.docker.ground import Ground

pytestmark = pytest.mark.integration

# Seconds of CPU that are charged to the container in half a second, all its processes together.
CHARGED = """
import json, time
def used(): return int(open("/sys/fs/cgroup/cpuacct/cpuacct.usage").read()) / 1e9
before = used(); time.sleep(0.5); print(json.dumps(used() - before))
"""


async def test_it_is_charged_to_the_service(ground: Ground) -> None:
    """Idle containers use nothing; with the fault the one that is hit uses CPU up to its own limit, the other none."""
    await ground.up("api", "cache", NanoCpus=500_000_000)
    await ground.inject(CpuStress(service="api", workers=2, duration_seconds=60))
    assert 0.05 < await ground.run("api", CHARGED) < 0.5
    assert await ground.run("cache", CHARGED) < 0.05
    await ground.undo()
    assert await ground.run("api", CHARGED) < 0.05
