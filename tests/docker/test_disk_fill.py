"""Volumes filled."""

from __future__ import annotations

import pytest

from events.errors import Permanent
from events.faults import DiskFill
from tests.docker.ground import Ground

pytestmark = pytest.mark.integration


async def volume(ground: Ground, name: str, **options: str) -> dict[str, str]:
    """A mount of a new volume at ``/data``."""
    called = f"{ground.network}-{name}"
    body = {"Name": called, "Driver": "local", "DriverOpts": options}
    await ground.engine.request("POST", "volumes/create", body=body)
    ground.volumes.append(called)
    return {"Type": "volume", "Source": called, "Target": "/data"}


async def test_full_and_free_again(ground: Ground) -> None:
    """A tmpfs volume with a size is full while the fault holds, its own files stay, and is as before afterwards."""
    mount = await volume(ground, "small", type="tmpfs", device="tmpfs", o="size=8m,uid=1000,mode=700")
    await ground.up("api", Mounts=[mount])
    write = "head -c 1000000 /dev/zero > /data/{}"
    assert (await ground.shell("api", write.format("own"))).exit_code == 0
    await ground.inject(DiskFill(service="api", path="/data", duration_seconds=60))
    full = await ground.shell("api", write.format("more"))
    assert full.exit_code != 0
    assert "No space left on device" in full.text
    await ground.undo()
    assert (await ground.shell("api", write.format("more"))).exit_code == 0
    assert (await ground.shell("api", "ls -A /data")).text.split() == ["more", "own"]


async def test_only_what_cannot_fill_the_host(ground: Ground) -> None:
    """A volume on the host's disk, and a path that is no volume, are refused with what to do."""
    await ground.up("api", Mounts=[await volume(ground, "large")])
    with pytest.raises(Permanent, match=r"no tmpfs with a size, so filling it would fill the host's disk. In Compose"):
        await ground.inject(DiskFill(service="api", path="/data", duration_seconds=60))
    with pytest.raises(Permanent, match="api-1 has no volume at /nowhere; it has /data"):
        await ground.inject(DiskFill(service="api", path="/nowhere", duration_seconds=60))
