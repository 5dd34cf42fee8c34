"""Environments in containers: the same shim, tools and checkpoints as in a working tree, within limits."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.errors import Permanent
from events.sandboxes import Sandbox
from infra.docker import labels
from infra.docker.engine import Engine
from infra.settings import Worker
from services.environment_manager.adapters.compose import DockerCompose
from tests.containing import Place
from tests.engine import BASE_IMAGE
from tests.integration.git_examples import repository
from tests.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture
async def place(engine: Engine, tmp_path: Path) -> AsyncIterator[Place]:
    worker = Worker(image=BASE_IMAGE, cpus=1.0, memory_mb=128, pids=64, warm_containers=0)
    made = Place(tmp_path / "home", engine, worker)
    yield made
    await made.sandboxes.close()
    for container in await engine.containers({labels.HOME: str(made.home)}):
        await engine.remove(container["Id"])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return repository(tmp_path / "source")


@pytest.fixture
def id() -> str:
    """An engine is everybody's: names of containers differ from test to test."""
    return f"shop-{uuid.uuid4().hex[:8]}-development"


async def test_works_as_in_a_working_tree(place: Place, source: Path, id: str) -> None:
    """Commands see the workspace, git and their own user; a checkpoint holds what they changed, and restoring it takes
    it back, so that the command may write again."""
    assert await place.prepare(id, source) == BASE_IMAGE
    ended, printed = await place.run(id, "id -u; pwd; cat README.md; git log --oneline | wc -l; git status --short")
    user = os.getuid() or 10_001
    assert (ended.code, printed) == (0, f"{user}\n/environment/workspace\nshop\n1\n")
    before = await place.workspaces.checkpoint(id, "before")
    await place.run(id, "echo changed > app.py; mkdir new; echo file > new/file")
    after = await place.workspaces.checkpoint(id, "after")
    assert after.tree != before.tree
    await place.workspaces.restore(id, before.commit)
    ended, printed = await place.run(id, "ls; cat app.py; echo again > app.py && echo written")
    assert printed == "README.md\napp.py\nprint('hello')\nwritten\n"


async def test_confined(place: Place, source: Path, id: str) -> None:
    """No capabilities, no new privileges, a root that cannot be written, no network, nothing of the host."""
    await place.prepare(id, source)
    _, printed = await place.run(
        id,
        "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; touch /etc/x; touch /x;"
        f" test -e {place.workspaces.directory(id)} && echo the host is seen;"
        " cat /sys/class/net/*/operstate | sort -u; ls /sys/class/net; env | grep -c PATH=; kill -9 1; echo alive",
    )
    said = printed.splitlines()
    assert {"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} <= set(said)
    assert "touch: cannot touch '/etc/x': Read-only file system" in said
    assert "the host is seen" not in said
    assert "lo" in said
    assert "eth0" not in said
    assert said[-1] == "alive"


async def test_adopted(place: Place, source: Path, id: str) -> None:
    """A command goes on while no environment-manager lives; the next one has its whole output and its exit code."""
    await place.prepare(id, source)
    await place.start(id, "long", "seq 1 5; while [ ! -e go ]; do sleep 0.02; done; seq 6 10; exit 7")
    following = place.again()
    container = await place.container(id)
    await following.processes.ready(id)
    assert await following.container(id) == container
    assert await following.processes.known(id) == {"long": True}
    (place.workspaces.directory(id) / "workspace" / "go").touch()
    pieces: list[bytes] = []

    async def hear(offset: int, data: bytes) -> None:
        assert offset == sum(map(len, pieces))
        pieces.append(data)

    ended = await following.processes.wait(id, "long", hear)
    assert ended is not None
    assert ended.code == 7
    assert b"".join(pieces).decode() == "".join(f"{number}\n" for number in range(1, 11))


async def test_a_container_that_is_killed(place: Place, source: Path, id: str) -> None:
    """What ran has no end that is known; the next command finds the files in a container of its own."""
    await place.prepare(id, source)
    await place.start(id, "long", "echo half > half; sleep 60")
    half = place.workspaces.directory(id) / "workspace" / "half"
    await until(half.exists)
    await place.engine.kill(await place.container(id))
    assert await place.processes.wait(id, "long") is None
    ended, printed = await place.run(id, "cat half")
    assert (ended.code, printed) == (0, "half\n")


async def test_limits(place: Place, source: Path, id: str) -> None:
    """Too much memory, too many processes and too much time end what asked for them, say so, and nothing else."""
    await place.prepare(id, source)
    ended, _ = await place.run(id, 'exec python3 -c "x = bytearray(10**9); print(len(x))"')
    assert ended.cause == "out-of-memory"
    assert "limit of memory" in ended.detail
    _, printed = await place.run(id, "for i in $(seq 200); do sleep 30 & done; echo all")
    assert "Resource temporarily unavailable" in printed
    ended, printed = await place.run(id, "echo fine")
    assert (ended.code, printed) == (0, "fine\n")


async def test_any_image(place: Place, source: Path, id: str, tmp_path: Path, engine: Engine) -> None:
    """An image that holds nothing but one static program is enough: the shim brings what it needs."""
    image = await _built(
        tmp_path, "FROM scratch\nCOPY busybox /bin/busybox\nENV GREETING=hello PATH=/bin\n", busybox=True
    )
    try:
        assert await place.prepare(id, source, Sandbox(network="none", image=image)) == image
        sh = ("/bin/busybox", "sh")
        assert (await place.run(id, 'echo "$GREETING"; busybox cat README.md', shell=sh))[1] == "hello\nshop\n"
        await place.start(id, "sh", "exit 0", shell=("/bin/absent",))
        missing = await place.processes.wait(id, "sh")
        assert missing is not None
        assert missing.detail == "The command '/bin/absent' does not exist."
    finally:
        await place.processes.close(id)
        await engine.request("DELETE", f"images/{image}", params={"force": True})


async def test_the_repositorys_own_image(place: Place, tmp_path: Path, id: str, engine: Engine) -> None:
    """A dev container file with comments names what to build; the second environment builds nothing."""
    mark = uuid.uuid4().hex
    build = json.dumps({"dockerfile": "Dockerfile", "args": {"MARK": mark}})
    described = f'{{\n  // tools\n  "build": {build},\n}}\n'
    dockerfile = f"FROM {BASE_IMAGE}\nARG MARK\nENV MARK=$MARK\n"
    files = {".devcontainer/devcontainer.json": described, ".devcontainer/Dockerfile": dockerfile, "a": "a\n"}
    source = repository(tmp_path / "with-image", files)
    image = await place.prepare(id, source)
    try:
        assert image.startswith("cairn-built:")
        assert (await place.run(id, 'echo "$MARK"'))[1] == f"{mark}\n"
        assert await place.prepare(f"{id}-2", source) == image
    finally:
        await place.processes.close(id)
        await place.processes.close(f"{id}-2")
        await engine.request("DELETE", f"images/{image}", params={"force": True})


async def test_images_that_cannot_be(place: Place, tmp_path: Path, id: str) -> None:
    """Each is refused with what to do about it."""
    source = repository(
        tmp_path / "broken", {"Dockerfile": f"FROM {BASE_IMAGE}\nRUN echo it breaks here && false\n", "a": "a"}
    )
    with pytest.raises(Permanent, match="it breaks here"):
        await place.prepare(f"{id}-1", source, Sandbox(image="dockerfile"))
    with pytest.raises(Permanent, match=r"the repository has no deep/Dockerfile"):
        await place.prepare(f"{id}-2", source, Sandbox(image="dockerfile:deep/Dockerfile"))
    with pytest.raises(Permanent, match="leads out of the repository"):
        await place.prepare(f"{id}-3", source, Sandbox(image="dockerfile:../../etc/passwd"))
    with pytest.raises(Permanent, match=r"no image 'cairn.invalid/absent:1' and cannot fetch it"):
        await place.prepare(f"{id}-4", source, Sandbox(image="cairn.invalid/absent:1"))


async def test_taken_warm(place: Place, source: Path, id: str) -> None:
    """The second environment takes the container that the first one had started for it, and works there; what is left
    warm goes with the next environment-manager."""
    place = Place(place.home, place.engine, Worker(image=BASE_IMAGE, warm_containers=1))
    await place.prepare(f"{id}-1", source)
    warm = [labels.WARM, f"{labels.HOME}={place.home}"]
    await place.sandboxes.settled()
    (container,) = await place.engine.containers(warm, running=True)
    await place.prepare(f"{id}-2", source)
    assert await place.container(f"{id}-2") == container["Id"]
    assert (await place.run(f"{id}-2", "cat README.md; pwd; git status --short"))[1] == "shop\n/environment/workspace\n"
    assert (place.workspaces.directory(f"{id}-2") / "workspace.json").exists()
    await place.sandboxes.settled()  # The next one has been started in its place.
    following = place.again()
    await following.sandboxes.begin()
    left = {item["Names"][0] for item in await place.engine.containers({labels.HOME: str(place.home)})}
    assert left == {f"/{place.sandboxes.name(f'{id}-{number}')}" for number in (1, 2)}
    assert (await following.run(f"{id}-2", "cat README.md"))[1] == "shop\n"


async def test_only_orphans_of_its_own_are_swept(place: Place, source: Path, id: str) -> None:
    """A container of ours that no environment has goes; one of a live environment and those of others stay, whatever
    they are called."""
    await place.prepare(f"{id}-1", source)
    await place.prepare(f"{id}-2", source)
    await place.workspaces.remove(f"{id}-2")
    foreign = {"Image": BASE_IMAGE, "Cmd": ["sleep", "60"]}
    others = [
        await place.engine.create(foreign, name=labels.sandbox_name(f"{id}-2", "another installation")),
        await place.engine.create(
            {**foreign, "Labels": {labels.ROLE: labels.SANDBOX, labels.HOME: "/elsewhere"}}, name=f"{id}-4"
        ),
    ]
    try:
        removed = await place.sandboxes.sweep(place.workspaces.existing)
        assert removed == [place.sandboxes.name(f"{id}-2")]
        assert (await place.run(f"{id}-1", "echo here"))[1] == "here\n"
        for container in others:
            await place.engine.inspect(container)
    finally:
        for container in others:
            await place.engine.remove(container)


async def test_outward_through_the_allow_list(place: Place, source: Path, id: str) -> None:
    """What the list names is reached through the proxy, also at a private address; everything else is refused with the
    reason, and without the proxy nothing is reached."""
    served = await asyncio.start_server(_serve, "127.0.0.1", 0)
    port = served.sockets[0].getsockname()[1]
    try:
        await place.prepare(f"{id}-1", source, Sandbox(allowed_hosts=("127.0.0.1",)))
        _, printed = await place.run(f"{id}-1", f"NO_PROXY= no_proxy= curl -s http://127.0.0.1:{port}/page")
        assert printed == "served /page"
        _, printed = await place.run(f"{id}-1", "curl -s http://example.com/")
        assert printed == "example.com is not among the hosts that this project's network allows: 127.0.0.1.\n"
        await place.prepare(f"{id}-2", source, Sandbox())
        _, printed = await place.run(f"{id}-2", f"NO_PROXY= no_proxy= curl -s http://127.0.0.1:{port}/page")
        assert "which is private: the project must allow it by name" in printed
        ended, _ = await place.run(f"{id}-2", f"curl -s --noproxy '*' http://127.0.0.1:{port}/")
        assert ended.code != 0
    finally:
        served.close()


ASK = "curl -s --retry 20 --retry-connrefused --retry-delay 0 http://api:8000/ | grep -c sources.list.d"


class Api:
    """A composed service of the environment ``id``."""

    def __init__(self, place: Place, id: str) -> None:
        self.systems = DockerCompose(place.home, marks=place.marks)
        self._place = place
        self._name = f"{id}-api"
        self._marks = {
            **self.systems.labels(),
            labels.ENVIRONMENT: id,
            labels.COMPOSE_PROJECT: self.systems.project(id),
            labels.COMPOSE_SERVICE: "api",
        }
        place.sandboxes.started = self.systems.join

    async def up(self) -> None:
        argv = ["python3", "-m", "http.server", "8000", "--directory", "/etc/apt"]
        configuration = {"Image": BASE_IMAGE, "Cmd": argv, "Labels": self._marks}
        await self._place.engine.start(await self._place.engine.create(configuration, name=self._name))

    async def remove(self) -> None:
        await self._place.engine.remove(self._name)


@pytest.fixture
async def api(place: Place, id: str) -> AsyncIterator[Api]:
    api = Api(place, id)
    await api.up()
    yield api
    await api.remove()
    await api.systems.down(id, volumes=True)
    await api.systems.close()


async def test_services_by_their_names(place: Place, source: Path, id: str, api: Api) -> None:
    """A container joins the services that its environment composes over a network that leads nowhere else, and joins
    them again when it is started anew, and when they were down; one that is to reach nothing does not."""
    systems = api.systems
    await place.prepare(id, source, Sandbox(network="services"))
    assert await systems.join(id)
    assert (await place.run(id, ASK))[1] == "1\n"
    outside = await asyncio.start_server(_serve, "0.0.0.0", 0)
    port = outside.sockets[0].getsockname()[1]
    found = "ip route show default | cut -d ' ' -f 3"
    _, printed = await place.run(id, f"curl -s -m 3 http://$({found}):{port}/; curl -s -m 3 http://1.1.1.1/; echo $?")
    assert printed.splitlines()[-1] in ("7", "28")
    assert "served" not in printed
    outside.close()
    await place.engine.kill(await place.container(id))
    assert (await place.run(id, ASK))[1] == "1\n"
    await place.prepare(f"{id}-none", source)
    assert not await systems.join(f"{id}-none")
    await systems.down(id, volumes=True)
    assert await place.engine.networks({labels.ENVIRONMENT: id}) == []
    assert (await place.run(id, "echo alone"))[1] == "alone\n"
    await api.remove()
    await api.up()
    assert await systems.join(id)
    assert (await place.run(id, ASK))[1] == "1\n"


async def test_services_beside_the_proxy(place: Place, source: Path, id: str, api: Api) -> None:
    """Where the proxy leads outward, programs that use it reach composed services without it."""
    await place.prepare(id, source, Sandbox())
    assert await api.systems.join(id)
    assert (await place.run(id, ASK, services=("api",)))[1] == "1\n"
    _, printed = await place.run(id, "curl -s http://api:8000/")
    assert "api has no address" in printed


async def test_closed(place: Place, source: Path, id: str) -> None:
    """After closing, the container is gone with everything that ran in it; closing again is no error."""
    await place.prepare(id, source)
    await place.start(id, "long", "sleep 60")
    await place.processes.close(id)
    assert await place.engine.containers({labels.HOME: str(place.home)}) == []
    await place.processes.close(id)


async def test_what_a_worker_has(place: Place, tmp_path: Path) -> None:
    """Left open, an environment is a container where an engine answers; a worker may choose otherwise, and where a
    container is asked for and no engine answers, that is said."""
    assert await place.sandboxes.isolation("") == "container"
    assert await place.sandboxes.isolation("worktree") == "worktree"
    without = Place(tmp_path / "other", place.engine, Worker(isolation="worktree"))
    assert await without.sandboxes.isolation("") == "worktree"


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
    body = b"served " + path
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    await writer.drain()
    writer.close()


async def _built(directory: Path, dockerfile: str, *, busybox: bool = False) -> str:
    image = f"cairn-test-{uuid.uuid4().hex[:12]}"
    folder = directory / image
    folder.mkdir()
    (folder / "Dockerfile").write_text(dockerfile)
    if busybox:
        (folder / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
        (folder / "busybox").chmod(0o755)
    process = await asyncio.create_subprocess_exec("docker", "build", "-q", "-t", image, str(folder))
    assert await process.wait() == 0
    return image
