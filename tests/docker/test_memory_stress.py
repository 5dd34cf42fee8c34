"""Memory used up within a container's limit."""

from __future__ import annotations

import pytest

from events.errors import Permanent
from events.faults import MemoryStress
from tests.docker.ground import Ground

pytestmark = pytest.mark.integration

MEGABYTE = 1 << 20
USED = "import json; print(json.dumps(int(open('/sys/fs/cgroup/memory/memory.usage_in_bytes').read())))"


async def test_it_is_charged_to_the_service(ground: Ground) -> None:
    """The memory counts within the limit of the service, and is free again afterwards; more than the limit is refused,
    and so is more than a quarter of the host where there is no limit."""
    await ground.up("api", Memory=200 * MEGABYTE)
    before = await ground.run("api", USED)
    await ground.inject(MemoryStress(service="api", megabytes=100, duration_seconds=60))
    during = await ground.run("api", USED)
    await ground.undo()
    assert 100 <= (during - before) / MEGABYTE < 130
    assert abs(await ground.run("api", USED) - before) / MEGABYTE < 20
    with pytest.raises(Permanent, match=r"300 MB are more than its limit \(200 MB\)"):
        await ground.inject(MemoryStress(service="api", megabytes=300, duration_seconds=60))
    await ground.up("free")
    with pytest.raises(Permanent, match="more than a quarter of the host's memory, as free has no limit"):
        await ground.inject(MemoryStress(service="free", megabytes=1_000_000, duration_seconds=60))
