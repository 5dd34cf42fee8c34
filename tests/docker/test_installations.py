"""What an installation leaves in an engine, and who removes it when the installation never comes back."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from infra.docker import labels
from infra.docker.engine import Engine
from services.environment_manager.adapters.installations import LEASE_SECONDS, RENEW_SECONDS, DockerInstallations
from tests.clocks import MovedClock
from tests.engine import BASE_IMAGE

pytestmark = pytest.mark.integration


class Tenant:
    """A tenant of the test's own, whose installations see nothing of anybody else on this engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = f"tenant-{uuid.uuid4().hex[:10]}"
        self.clock = MovedClock()
        self.everybody = self.installation("any")

    def marks(self, host: str) -> dict[str, str]:
        return {labels.TENANT: self.name, labels.HOST: host, labels.HOME: f"/homes/{host}"}

    def installation(self, host: str) -> DockerInstallations:
        return DockerInstallations(self.clock, self.marks(host))

    async def has_things(self, host: str) -> None:
        """A container that runs in a network, with a volume and an image."""
        marks, name = {**self.marks(host), labels.ENVIRONMENT: "shop-1"}, f"{self.name}-{host}"
        await self.engine.request("POST", "networks/create", body={"Name": name, "Labels": marks})
        await self.engine.request("POST", "volumes/create", body={"Name": name, "Labels": marks})
        configuration = {
            "Image": BASE_IMAGE,
            "Cmd": ["sleep", "600"],
            "Labels": marks,
            "HostConfig": {"NetworkMode": name, "Mounts": [{"Type": "volume", "Source": name, "Target": "/data"}]},
        }
        container = await self.engine.create(configuration, name=name)
        await self.engine.start(container)
        params = {"container": container, "repo": name, "changes": f"LABEL {labels.HOME}={marks[labels.HOME]}"}
        await self.engine.request("POST", "commit", params=params, seconds=60.0)

    async def paths(self, host: str) -> list[str]:
        """The kinds of what the engine has of an installation."""
        things = await self.everybody.things()
        return [
            "lease" if thing.is_lease else thing.path.partition("/")[0]
            for thing in things
            if thing.marks[labels.HOST] == host
        ]

    async def expires(self, host: str) -> int:
        things = await self.everybody.things()
        (lease,) = [thing for thing in things if thing.is_lease and thing.marks[labels.HOST] == host]
        return int(lease.marks[labels.EXPIRES])


@pytest.fixture
async def tenant(engine: Engine) -> AsyncIterator[Tenant]:
    made = Tenant(engine)
    yield made
    await made.everybody.remove(await made.everybody.things())
    assert await made.everybody.things() == []
    await made.everybody.close()


async def test_who_never_comes_back_is_removed_by_others(tenant: Tenant) -> None:
    """While the lease of an installation is valid nobody else touches anything of it; once it has run out, everything
    goes: containers that run, networks, volumes, images and the lease. What a living one has stays, however old."""
    await tenant.has_things("gone")
    await tenant.has_things("here")
    gone, here = tenant.installation("gone"), tenant.installation("here")
    assert await gone.keep() == []
    assert await here.keep() == []
    everything = ["containers", "networks", "images"]
    for host in ("gone", "here"):
        assert sorted(await tenant.paths(host)) == sorted([*everything, "volumes", "lease"])
    tenant.clock.by = timedelta(seconds=LEASE_SECONDS - 60)
    assert await here.keep() == []
    tenant.clock.by = timedelta(seconds=LEASE_SECONDS + 60)
    name = f"{tenant.name}-gone"
    assert sorted(await here.keep()) == [name, name, name, f"{name}:latest"]
    assert await tenant.paths("gone") == []
    assert sorted(await tenant.paths("here")) == sorted([*everything, "volumes", "lease"])
    await gone.close()
    await here.close()


async def test_what_never_had_a_lease(tenant: Tenant) -> None:
    """An installation that was killed before it had a lease: what it has made goes when it is as old as one."""
    await tenant.has_things("gone")
    here = tenant.installation("here")
    tenant.clock.by = timedelta(seconds=LEASE_SECONDS - 60)
    assert await here.keep() == []
    tenant.clock.by = timedelta(seconds=LEASE_SECONDS + 60)
    assert len(await here.keep()) == 4
    await here.close()


async def test_a_lease_is_there_while_it_is_needed(tenant: Tenant) -> None:
    """It is renewed long before its end, there is one at a time, and none where nothing else is in the engine."""
    here = tenant.installation("here")
    assert await here.keep() == []
    assert await tenant.paths("here") == []
    await tenant.has_things("here")
    await here.keep()
    first = await tenant.expires("here")
    tenant.clock.by = timedelta(seconds=RENEW_SECONDS / 2)
    await here.keep()
    assert await tenant.expires("here") == first
    tenant.clock.by = timedelta(seconds=RENEW_SECONDS + 60)
    await here.keep()
    assert await tenant.expires("here") >= first + RENEW_SECONDS
    await here.remove([thing for thing in await here.things() if not thing.is_lease])
    await here.close()
    assert await tenant.paths("here") == []
