"""The engine as Cairn asks it."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator

import pytest

from events.errors import Transient
from infra.docker import labels
from infra.docker.engine import Conflicts, Engine, NotThere
from tests.engine import BASE_IMAGE
from tests.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture
async def container(engine: Engine) -> AsyncIterator[str]:
    """One that sleeps, with a label of its own."""
    mark = uuid.uuid4().hex
    script = "echo begun; echo twice >&2; exec sleep 60"
    id = await engine.create(
        {"Image": BASE_IMAGE, "Cmd": ["sh", "-c", script], "Labels": {labels.RUN: mark}}, name=f"cairn-test-{mark}"
    )
    await engine.start(id)
    yield id
    await engine.remove(id)


async def test_found_by_label_and_removed(engine: Engine, container: str) -> None:
    """A container is found by its label while it is there, and removing it twice is no error."""
    mark = (await engine.inspect(container))["Config"]["Labels"][labels.RUN]
    assert [found["Id"] for found in await engine.containers({labels.RUN: mark})] == [container]
    await engine.remove(container)
    await engine.remove(container)
    assert await engine.containers({labels.RUN: mark}) == []
    with pytest.raises(NotThere):
        await engine.inspect(container)


async def test_a_command_in_it(engine: Engine, container: str) -> None:
    """What a command prints on both streams comes back with its exit code, and its variables and user are ours."""
    ran = await engine.run(
        container, ["sh", "-c", 'id -u; echo "$WHAT" >&2; exit 3'], user="10001", variables={"WHAT": "variables"}
    )
    # The engine copies the two streams by themselves: between them there is no order.
    assert (ran.exit_code, sorted(ran.text.splitlines())) == (3, ["10001", "variables"])
    with pytest.raises(Transient, match=r"did not end within 0.2 s"):
        await engine.run(container, ["sleep", "5"], seconds=0.2)


async def test_what_it_printed(engine: Engine, container: str) -> None:
    """The last lines of a container, both streams."""

    async def both() -> list[str]:
        lines = (await engine.logs(container)).splitlines()
        return lines if len(lines) == 2 else []

    lines = await until(both)
    assert sorted(lines) == ["begun", "twice"]
    assert (await engine.logs(container, lines=1)).splitlines() == lines[1:]


async def test_paused_killed_and_started_again(engine: Engine, container: str) -> None:
    """State goes as it is asked to go, and what does not fit the state conflicts."""
    await engine.pause(container)
    assert (await engine.inspect(container))["State"]["Paused"]
    await engine.unpause(container)
    await engine.kill(container)
    assert await engine.wait(container, seconds=10) == 137
    with pytest.raises(Conflicts):
        await engine.kill(container)
    await engine.start(container)
    assert (await engine.inspect(container))["State"]["Running"]


async def test_what_is_not_paused_stays_as_it_is(engine: Engine, container: str) -> None:
    """Whoever thaws it may not be the first to do so, and it may have ended meanwhile."""
    await engine.pause(container)
    for _ in range(2):
        await engine.unpause(container)
        assert (await engine.inspect(container))["State"]["Status"] == "running"
    await engine.kill(container)
    await engine.wait(container, seconds=10)
    await engine.unpause(container)
    assert (await engine.inspect(container))["State"]["Status"] == "exited"
    with pytest.raises(NotThere):
        await engine.unpause("nobody")


async def test_events_follow(engine: Engine, container: str) -> None:
    """Whoever listens hears that a container was killed, also what happened just before."""
    began = time.time()
    await engine.kill(container)
    happened = engine.events({"container": [container], "event": ["die"]}, since=began)
    assert (await anext(happened))["Actor"]["Attributes"]["exitCode"] == "137"


async def test_no_engine() -> None:
    """Where nobody listens, the message says what to do."""
    async with Engine("unix:///nowhere/docker.sock") as nobody:
        with pytest.raises(Transient, match=r"no Docker engine answers at unix:///nowhere/docker.sock. Start it"):
            await nobody.version()


def test_compose_projects_differ() -> None:
    """Environments that differ only in case or in signs have different Compose projects, with names Compose takes."""
    names = {labels.compose_project(id, "here") for id in ("Shop-1-test-1", "shop-1-test-1", "shop_1_test_1", "__")}
    assert len(names) == 4
    assert all(name.replace("-", "").isalnum() and name == name.lower() for name in names)
