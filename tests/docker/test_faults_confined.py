"""What faults may hit, and what is refused."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

import msgspec
import pytest

from events.errors import Invalid, Permanent, Transient
from events.faults import (
    KINDS,
    AddLatency,
    CpuLimit,
    DropNetwork,
    KillService,
    LimitBandwidth,
    PacketLoss,
    PauseService,
)
from infra.docker import labels
from infra.docker.engine import Engine
from services.chaos.adapters import image
from services.chaos.adapters.faults import DockerFaults
from services.chaos.adapters.ground import confined, run_once
from services.chaos.ports import Affected
from tests.docker.ground import CONNECT, IMAGE, Ground
from tests.engine import BASE_IMAGE

pytestmark = pytest.mark.integration


async def test_another_environment_is_never_touched(ground: Ground) -> None:
    """A container of another environment is refused by name when a fault is injected, and a record that names one, as
    somebody could have forged it, is not obeyed."""
    await ground.up("api")
    await ground.up("theirs", marks={labels.ENVIRONMENT: "somebody-else"})
    assert [container.service for container in await ground.faults.containers(ground.environment)] == ["api"]
    pause = PauseService(service="theirs", duration_seconds=60)
    with pytest.raises(Invalid, match=r"has no service theirs\. There are: api\."):
        await ground.resolve(pause)
    (theirs,) = await ground.faults.containers("somebody-else")
    forged = Affected(target=ground.environment, hit=(theirs,))
    until = time.time() + 60
    with pytest.raises(Permanent, match=f"container {theirs.name} does not belong to {ground.environment}"):
        await ground.faults.inject("forged", pause, forged, until)
    assert not (await ground.state("theirs"))["Paused"]

    await ground.inject(PauseService(service="api", duration_seconds=60), "mine")
    (record,) = await ground.holders()
    await ground.engine.pause(theirs.id)
    marks = {**record["Labels"], "cairn.fault": "forged", "cairn.fault.hit": theirs.id}
    made = await ground.engine.create({"Image": IMAGE, "Labels": marks})
    (stuck,) = (await ground.faults.undo("forged")).stuck
    assert stuck == f"{theirs.name} does not belong to {ground.environment}: pause_service is not undone there"
    assert (await ground.state("theirs"))["Paused"]
    await ground.engine.unpause(theirs.id)
    await ground.engine.remove(made)
    await ground.undo("mine")


async def test_our_own_containers_are_no_targets(ground: Ground) -> None:
    """Sandboxes, holders and proxies carry the environment's label, and no fault may hit them."""
    for role in (labels.SANDBOX, labels.FAULT, labels.PROXY):
        await ground.up(f"ours-{role}", argv=["sleep", "60"], marks={labels.ROLE: role})
    with pytest.raises(Invalid, match=r"has no containers: bring its system up first"):
        await ground.resolve(KillService(service="ours-sandbox", duration_seconds=60))


async def test_a_project_that_is_not_named(ground: Ground) -> None:
    """A Compose project is a target only where the settings name it."""
    project = f"{ground.environment}-project"
    await ground.up("api", marks={labels.ENVIRONMENT: "", labels.COMPOSE_PROJECT: project})
    (found,) = await ground.faults.containers(f"compose:{project}")
    assert found.id == ground.made["api"]
    with pytest.raises(Permanent, match=r'\[chaos\] projects = \["other"\]'):
        await ground.faults.containers("compose:other")


async def test_one_resource_one_fault(ground: Ground) -> None:
    """A second fault that takes the same of a container is refused, with the one that has it; one that takes something
    else, or goes to another peer, is not; the first stays as it was."""
    await ground.up("api", "database", "cache")
    link = DropNetwork(service="api", peer="database", duration_seconds=60)
    await ground.inject(link, f"{ground.environment}-f1")
    refused = "(?:api|database)-1 is under drop_network .*-f1. already, and {} would take the same of it .packets."
    with pytest.raises(Permanent, match=refused.format("packet_loss")):
        await ground.inject(PacketLoss(service="database", percent=5, duration_seconds=60), "second")
    with pytest.raises(Permanent, match=refused.format("drop_network")):
        await ground.inject(DropNetwork(service="api", duration_seconds=60), "third")
    await ground.inject(PacketLoss(service="api", peer="cache", percent=5, duration_seconds=60), "fourth")
    await ground.inject(AddLatency(service="api", delay_milliseconds=5, duration_seconds=60), "fifth")
    assert len(await ground.holders(running=True)) == 4
    assert (await ground.run("api", CONNECT, "database", 0.3))["how"] == "TimeoutError"
    for fault_id in (f"{ground.environment}-f1", "fourth", "fifth"):
        await ground.undo(fault_id)


async def test_on_all_or_on_none(ground: Ground) -> None:
    """Where one of several containers refuses, none stays hit."""
    await ground.up("api", NanoCpus=100_000_000)
    one = ground.made["api"]
    await ground.up("api", marks={"com.docker.compose.container-number": "2"})
    with pytest.raises(Permanent, match=r"has 0.1 CPUs as it is"):
        await ground.inject(CpuLimit(service="api", cpus=0.5, duration_seconds=60))
    assert await ground.holders() == []
    quotas = [(await ground.engine.inspect(id))["HostConfig"]["CpuQuota"] for id in (one, ground.made["api"])]
    assert [quota in (0, -1) for quota in quotas] == [True, True]


async def test_the_network_of_the_host_is_never_hit(ground: Ground) -> None:
    """A container in the host's network, or in another container's, is refused: the fault would hit others."""
    await ground.up("api", argv=["sleep", "60"], NetworkMode="host")
    await ground.up("owner")
    await ground.up("guest", argv=["sleep", "60"], NetworkMode=f"container:{ground.made['owner']}")
    for name in ("api", "guest"):
        with pytest.raises(Permanent, match=rf"{name}-1 has no network of its own"):
            await ground.inject(LimitBandwidth(service=name, kilobits_per_second=100, duration_seconds=60))
    del ground.made["api"]


async def test_what_this_host_can_do(ground: Ground) -> None:
    """Every kind is told with why it cannot be, and the probe says what the kernel lacks: with all there is, nothing;
    without capabilities, why not."""
    assert set(await ground.faults.capabilities()) == set(KINDS)
    code, said = await run_once(ground.below, f"{ground.network}-probe", ["probe"], confined("NET_ADMIN"))
    found = msgspec.json.decode(said)
    assert code == 0
    assert found.get("netem", "qdisc kind is unknown").endswith(("kind is unknown.", "kind is unknown"))
    code, said = await run_once(ground.below, f"{ground.network}-probe", ["probe"], confined())
    assert "Operation not permitted" in msgspec.json.decode(said)["drop_network"]


async def test_who_asks_meanwhile_waits_for_the_probe(ground: Ground) -> None:
    """Several that want to know at once get the same answer: the container that looks is not taken from under it."""
    faults = ground.another()
    first, *others = await asyncio.gather(*(faults.capabilities() for _ in range(5)))
    assert others == [first] * 4
    assert not any("did not run" in why for why in first.values())


async def test_an_engine_that_comes_back(engine: Engine, tmp_path: Path) -> None:
    """It is asked as soon as somebody wants to know: what was so without it is not kept."""
    place = tmp_path / "docker.sock"
    async with Engine(f"unix://{place}") as away:
        faults = DockerFaults(
            away, tenant="test", host="test", owner=uuid.uuid4().hex, image=IMAGE, base_image=BASE_IMAGE
        )
        assert all((await faults.capabilities()).values())
        place.symlink_to(engine.url.removeprefix("unix://"))
        assert (await faults.capabilities())["pause_service"] == ""


async def test_no_engine_and_no_image(engine: Engine) -> None:
    """Without an engine, and without an image to build from, every kind says why and what to do."""
    unique = f"f-{uuid.uuid4().hex[:8]}"
    settings = {"tenant": "test", "host": "test", "owner": unique, "image": unique}
    async with Engine("unix:///nowhere/docker.sock") as nobody:
        faults = DockerFaults(nobody, **settings, base_image=BASE_IMAGE)
        why = await faults.capabilities()
        assert set(why) == set(KINDS)
        assert all("Start it, or set DOCKER_HOST" in each for each in why.values())
        with pytest.raises(Transient):
            await faults.active()
    why = await DockerFaults(engine, **settings, base_image=f"{unique}-base").capabilities()
    assert all(f"{unique} could not be built from {unique}-base" in each for each in why.values())


async def test_the_image_is_of_this_version(engine: Engine) -> None:
    """The image is built once, and again where its label tells of another version, which then goes."""
    name = f"f-{uuid.uuid4().hex[:8]}"
    await image.ensure(engine, name, BASE_IMAGE)
    try:
        first = (await engine.request("GET", f"images/{name}/json"))["Id"]
        await image.ensure(engine, name, BASE_IMAGE)
        assert (await engine.request("GET", f"images/{name}/json"))["Id"] == first
        old = await engine.create({"Image": name, "Labels": {image.DIGEST: "old"}})
        of_before = (await engine.request("POST", "commit", params={"container": old, "repo": name}))["Id"]
        await engine.remove(old)
        await image.ensure(engine, name, BASE_IMAGE)
        assert not await engine.has_image(of_before)
        assert (await engine.request("GET", f"images/{name}/json"))["Config"]["Labels"][image.DIGEST] == image.digest()
    finally:
        await engine.request("DELETE", f"images/{name}", params={"force": True})
