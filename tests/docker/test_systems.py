"""Composed systems with a real engine: brought up, looked at, worked in, broken, and taken down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.environment import (
    InterruptCall,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallInterrupted,
    ToolCallStarted,
    ToolCallUncertain,
)
from infra.docker import labels
from infra.docker.engine import Engine
from infra.entities import Cause
from tests.composing import WEB, Composing, composing
from tests.engine import BASE_IMAGE
from tests.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture
async def environment(engine: Engine, tmp_path: Path) -> AsyncIterator[Composing]:
    async with composing(tmp_path) as environment:
        yield environment


def get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return str(answer.read().decode())


async def test_a_system_goes_up_is_worked_in_and_goes_down(environment: Composing) -> None:
    """Up, status, exec, logs, restart and down; the log holds what was seen."""
    environment.write("compose.yaml", WEB)
    ended, text = await environment.call("compose_up")
    assert isinstance(ended, ToolCallCompleted), text
    port = await environment.port()
    assert "compose.yaml is up" in text
    assert f"127.0.0.1:{port} -> 80/tcp" in text
    assert "Directory listing" in await asyncio.to_thread(get, port)
    for tool, arguments, says in (
        ("compose_status", {}, "running, healthy"),
        ("compose_exec", {"service": "web", "command": "echo $((40 + 2)); exit 3"}, "42"),
        ("tail_logs", {"service": "web", "lines": 5}, "GET / HTTP/1.1"),
        ("restart_service", {"service": "web"}, "Restarted"),
        ("compose_up", {}, "compose.yaml is up"),
        ("compose_down", {"volumes": True}, "The system is down (1 containers)"),
    ):
        ended, text = await environment.call(tool, **arguments)
        assert isinstance(ended, ToolCallCompleted), text
        assert says in text, tool
        if tool != "compose_down":
            assert await environment.port() == port
    assert (await environment.state()).system is None
    assert await environment.compose.leftover() == set()


def service(*lines: str, name: str = "web") -> str:
    """A Compose file with one service of the base image."""
    return "\n".join(["services:", f"  {name}:", f"    image: {BASE_IMAGE}", *(f"    {line}" for line in lines), ""])


async def test_a_service_has_the_time_to_end_that_its_file_gives_it(environment: Composing, engine: Engine) -> None:
    """Not the engine's ten seconds, where it says otherwise: when it is restarted, and when the system goes down."""
    environment.write("compose.yaml", service("command: sleep 600", "stop_grace_period: 1s"))
    ended, text = await environment.call("compose_up")
    assert isinstance(ended, ToolCallCompleted), text
    (web,) = await environment.compose.containers(environment.id)
    tools: tuple[tuple[str, dict[str, str]], ...] = (("restart_service", {"service": "web"}), ("compose_down", {}))
    for tool, arguments in tools:
        ending = asyncio.create_task(grace_seconds(engine, web.id, time.time()))
        ended, text = await environment.call(tool, **arguments)
        assert isinstance(ended, ToolCallCompleted), text
        assert 0.9 < await ending < 8, tool


async def grace_seconds(engine: Engine, container: str, since: float) -> float:
    """How long a container was given between SIGTERM and SIGKILL, as the engine tells it."""
    asked_at = 0
    async for event in engine.events({"container": [container], "event": ["kill"]}, since=since):
        if event["Actor"]["Attributes"]["signal"] != "9":
            asked_at = event["timeNano"]
        elif asked_at:
            return float(event["timeNano"] - asked_at) / 1e9
    pytest.fail("the engine tells no more")


FAILING = {
    "exits": (
        service('command: ["sh", "-c", "echo no database here; exit 3"]'),
        "system-unhealthy: service web ended with exit code 3.",
        "no database here",
    ),
    "loops": (
        service('command: ["sh", "-c", "echo again; exit 1"]', "restart: always"),
        "system-unhealthy: service web is restarted again and again",
        "again",
    ),
    "unhealthy": (
        service(
            'command: ["sleep", "60"]',
            "init: true",
            "healthcheck: {test: ['CMD-SHELL', 'echo not yet; exit 1'], interval: 300ms, retries: 2}",
        ),
        "system-unhealthy: service web is unhealthy.",
        "It says: not yet",
    ),
    "late": (
        service('command: ["sleep", "60"]', "init: true", "healthcheck: {test: ['CMD', 'false'], interval: 60s}"),
        "system-unhealthy: service web did not come up in time: it is not healthy yet.",
        "web (",
    ),
    "dependency": (
        service('command: ["sh", "-c", "echo no table; exit 4"]', name="job")
        + f"  web: {{image: {BASE_IMAGE}, command: [sleep, '60'], "
        "depends_on: {job: {condition: service_completed_successfully}}}\n",
        "system-unhealthy: service job ended with exit code 4.",
        "no table",
    ),
    "command": (
        service('command: ["no-such-program"]'),
        "system-unhealthy: service web",
        "no-such-program",
    ),
    "image": (
        "services: {web: {image: 'localhost:1/none:1'}}\n",
        "image-unavailable: ",
        "",
    ),
    "build": (
        'services: {web: {build: {context: ., dockerfile_inline: "FROM cairn-debian\\nRUN echo too bad; exit 7"}}}\n',
        "build-failed: ",
        "exit code: 7",
    ),
    "invalid": ("services: {web: {image: x, replicas: three}}\n", "compose-file-invalid: ", "replicas"),
    "variable": ("services: {web: {image: '${IMAGE:?say which}'}}\n", "compose-file-invalid: ", "say which"),
    "yaml": ("services: [", "compose-file-invalid: ", "no valid YAML"),
    "dangerous": (service("privileged: true"), "compose-refused: ", "service web: privileged: it would be root"),
}


async def test_what_does_not_come_up_is_told_with_its_service_and_its_last_lines(
    engine: Engine, tmp_path: Path
) -> None:
    """All at once, each in an environment of its own."""

    async def fail(name: str) -> None:
        text, cause, said = FAILING[name]
        async with composing(tmp_path / name) as environment:
            environment.write("compose.yaml", text)
            ended, answer = await environment.call("compose_up", timeout_seconds=40 if name == "late" else 60)
            assert isinstance(ended, ToolCallFailed), f"{name}: {answer}"
            assert answer.startswith(cause), f"{name}: {answer}"
            assert said in answer, f"{name}: {answer}"
            state = await environment.state()
            assert (state.system is not None) == cause.startswith("system-unhealthy"), name
            if state.system is not None:
                assert state.system.problem

    for name in FAILING:
        (tmp_path / name).mkdir()
    await asyncio.gather(*map(fail, FAILING))


async def test_the_same_file_runs_side_by_side(engine: Engine, tmp_path: Path) -> None:
    """Three environments with fixed ports, names and volumes in their file: each has its own."""
    text = WEB + "    container_name: web\n    volumes: ['data:/data']\nvolumes: {data: {name: data}}\n"

    async def run(number: int) -> int:
        environment = await stack.enter_async_context(composing(tmp_path))
        environment.write("compose.yaml", text)
        ended, answer = await environment.call("compose_up")
        assert isinstance(ended, ToolCallCompleted), answer
        assert "container_name web is left out" in answer
        await environment.call(
            "compose_exec", service="web", command=f"echo {number} > /data/number; touch /srv/{number}"
        )
        assert f">{number}<" in await asyncio.to_thread(get, await environment.port())
        _, answer = await environment.call("compose_exec", service="web", command="cat /data/number")
        assert answer == f"{number}\n"
        return await environment.port()

    async with contextlib.AsyncExitStack() as stack:
        ports = await asyncio.gather(*(run(number) for number in range(3)))
    assert len(set(ports)) == 3


async def test_calls_about_what_is_not_there(environment: Composing) -> None:
    """No system, no such service, one that stands still, a command without end."""
    for tool, arguments, cause in (
        ("compose_up", {"compose_file": "other.yaml"}, "compose-file-missing: "),
        ("tail_logs", {"service": "web"}, "system-missing: "),
        ("compose_exec", {"service": "web", "command": "true"}, "system-missing: "),
    ):
        ended, answer = await environment.call(tool, **arguments)
        assert isinstance(ended, ToolCallFailed)
        assert answer.startswith(cause)
    _, answer = await environment.call("compose_status")
    assert "No system is up" in answer
    job = f"  job: {{image: {BASE_IMAGE}, command: ['true']}}\n"
    environment.write("compose.yaml", service('command: ["sleep", "60"]', "init: true") + job)
    ended, answer = await environment.call("compose_up")
    assert isinstance(ended, ToolCallCompleted), answer
    assert "exited, exit code 0" in answer
    for tool, arguments, says in (
        ("restart_service", {"service": "wep"}, "Did you mean web?"),
        ("compose_exec", {"service": "job", "command": "true"}, "service-not-running: service job is exited"),
        ("compose_exec", {"service": "web", "command": "sleep 60", "timeout_seconds": 0.5}, "timed-out: "),
    ):
        ended, answer = await environment.call(tool, **arguments)
        assert isinstance(ended, ToolCallFailed)
        assert says in answer
    _, answer = await environment.call("compose_exec", service="web", command="ps ax | grep -c '[s]leep 60'")
    assert answer == "2\n"  # The service, and its init.


async def test_up_brings_what_runs_in_line(environment: Composing) -> None:
    """A service that is paused, one that is gone from the file, one that is new."""
    old = f"  old: {{image: {BASE_IMAGE}, command: [sleep, '60'], init: true}}\n"
    environment.write("compose.yaml", WEB + old)
    await environment.call("compose_up")
    (web,) = [seen for seen in await environment.compose.containers(environment.id) if seen.state.service == "web"]
    await environment.compose._open().pause(web.id)
    _, answer = await environment.call("compose_status")
    assert "paused" in answer
    environment.write("compose.yaml", WEB + old.replace("old", "new"))
    ended, answer = await environment.call("compose_up")
    assert isinstance(ended, ToolCallCompleted), answer
    services = (await environment.state()).system.services
    assert {(state.service, state.status) for state in services} == {("web", "running"), ("new", "running")}


async def test_sandbox_reaches_services_by_name(environment: Composing, engine: Engine) -> None:
    """It is joined to the system's network, which goes away all the same."""
    sandbox = await engine.create(
        {
            "Image": BASE_IMAGE,
            "Cmd": ["sleep", "60"],
            "Labels": {labels.ENVIRONMENT: environment.id, labels.ROLE: labels.SANDBOX},
            "HostConfig": {"NetworkMode": "none", "Init": True},
        },
        name=labels.sandbox_name(environment.id, labels.installation(environment.compose.labels())),
    )
    try:
        await engine.start(sandbox)
        environment.write("compose.yaml", WEB)
        _, answer = await environment.call("compose_up")
        assert "reached by their names" in answer
        ran = await engine.run(sandbox, ["curl", "-sf", "--max-time", "5", "http://web/"])
        assert "Directory listing" in ran.text
        ended, answer = await environment.call("compose_down", volumes=True)
        assert isinstance(ended, ToolCallCompleted), answer
    finally:
        await engine.remove(sandbox)


async def test_environment_takes_its_system_along_and_orphans_are_swept(engine: Engine, tmp_path: Path) -> None:
    """A removed environment leaves nothing; a system without environment goes; what others made stays."""
    text = WEB + "    volumes: ['data:/data']\nvolumes: {data: {}}\n"
    stranger = await engine.create(
        {
            "Image": BASE_IMAGE,
            "Cmd": ["true"],
            "Labels": {labels.ROLE: labels.SERVICE, labels.HOME: "/elsewhere", labels.ENVIRONMENT: "x"},
        }
    )
    try:
        async with composing(tmp_path) as removed, composing(tmp_path) as orphaned:
            for environment in (removed, orphaned):
                environment.write("compose.yaml", text)
                await environment.call("compose_up")
            assert await removed.compose.leftover() == {removed.id, orphaned.id}
            await removed.keeper.remove(removed.id, "done")
            assert await removed.compose.leftover() == {orphaned.id}
            # Another environment-manager of the same home, whose log has never heard of it.
            successor = Composing(tmp_path)
            following = await successor.keeper.start()
            await following.close()
            assert await removed.compose.leftover() == set()
            await successor.compose.close()
        await engine.inspect(stranger)
    finally:
        await engine.remove(stranger)


async def test_an_image_is_all_that_is_left(environment: Composing, engine: Engine) -> None:
    """An ``up`` that was ended between building and starting leaves images alone: they go with the environment."""
    marks = {**environment.compose.labels(), labels.ENVIRONMENT: environment.id}
    built = "\n".join([f"FROM {BASE_IMAGE}", *(f'LABEL {name}="{value}"' for name, value in marks.items()), ""])
    environment.write("Dockerfile", built)
    tag = f"cairn-test-{environment.id}"
    building = await asyncio.create_subprocess_exec("docker", "build", "-q", "-t", tag, str(environment.workspace))
    assert await building.wait() == 0
    assert await environment.compose.leftover() == {environment.id}
    await environment.keeper.remove(environment.id, "done")
    assert await environment.compose.leftover() == set()
    assert not await engine.has_image(tag)


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.composing import Composing

async def main():
    environment = await Composing(Path(sys.argv[1]), id=sys.argv[2]).stand()
    await environment.call("compose_up")

asyncio.run(main())
"""


async def test_up_that_was_killed_in_the_middle_is_executed_again(engine: Engine, tmp_path: Path) -> None:
    """What it left, a Compose under way included, does not stand in the way of the next."""
    async with composing(tmp_path) as environment:
        slow = '    build: {context: ., dockerfile_inline: "FROM cairn-debian\\nRUN sleep 3"}\n'
        environment.write("compose.yaml", WEB.replace(f"    image: {BASE_IMAGE}\n", slow))
        killed = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(tmp_path), environment.id)
        lock = tmp_path / "compose" / f"{environment.compose.project(environment.id)}.lock"
        left = await until(lambda: upping(lock), seconds=40.0)
        os.killpg(left, signal.SIGSTOP)  # Else it might end by itself when nobody reads what it prints.
        killed.kill()
        await killed.wait()
        assert "up" in command_of(str(left))
        command = environment.command("compose_up")
        started = ToolCallStarted(
            call_id=command.call_id, run_id="r", tool="compose_up", effects="external", retry="idempotent"
        )
        await environment.executor.append(environment.id, Cause(id="left"), lambda state: (started,))
        await environment.begin(command)
        ended, answer = await environment.end_of(command.call_id)
        assert isinstance(ended, ToolCallCompleted), answer
        assert "execute-again" in [e.resolution for e in await environment.said() if isinstance(e, ToolCallUncertain)]
        assert "up" not in command_of(str(left))


async def test_up_that_is_interrupted_ends_at_once(environment: Composing) -> None:
    """With the Compose that it started; a person sees in the output what was being done."""
    slow = '    build: {context: ., dockerfile_inline: "FROM cairn-debian\\nRUN echo slowly && sleep 60"}\n'
    environment.write("compose.yaml", WEB.replace(f"    image: {BASE_IMAGE}\n", slow))
    command = environment.command("compose_up")
    working = environment.begin(command)
    await until(lambda: "slowly" in str(environment.memory.output.chunks(command.run_id)), seconds=40.0)
    await environment.executor.interrupt(environment.id, InterruptCall(call_id=command.call_id, reason="cancelled"))
    async with asyncio.timeout(40):
        await working
    ended, _ = await environment.end_of(command.call_id)
    assert isinstance(ended, ToolCallInterrupted)


async def test_engine_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """At once, with what to do."""
    environment = Composing(tmp_path)
    environment.compose._url = f"unix://{tmp_path}/no.sock"
    await environment.stand()
    environment.write("compose.yaml", WEB)
    for tool in ("compose_up", "compose_status"):
        ended, answer = await environment.call(tool)
        assert isinstance(ended, ToolCallFailed)
        assert answer.startswith("engine-unavailable: no Docker engine answers at unix://")
        assert "DOCKER_HOST" in answer
    assert await environment.systems.leftover() == set()


def upping(lock: Path) -> int:
    """The number of the `up` that holds the lock; 0 where none does."""
    try:
        held_by = lock.read_text()
    except FileNotFoundError:
        return 0
    return int(held_by) if "up" in command_of(held_by) else 0


def command_of(process_id: str) -> list[str]:
    """The command line of a process; nothing where it is gone."""
    try:
        return (Path("/proc") / process_id / "cmdline").read_text().split("\0")
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return []
