"""The shim and the calls under it outlive whoever started them; what is killed leaves nothing running."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.environment_manager.adapters.processes import sweep
from services.environment_manager.ports import Limits
from services.environment_manager.shim import CALL_VARIABLE, DIRECTORY_VARIABLE
from services.environment_manager.shim.process_tree import processes, send_signal
from tests.shim_examples import (
    ENVIRONMENT,
    LONG,
    PATH,
    REPOSITORY,
    checked_directory,
    left,
    make,
    printed_by,
    processes_named,
    run,
    shim_pid,
    wait,
)
from tests.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Path]:
    async for path in checked_directory(tmp_path):
        yield path


async def test_another_client_adopts_a_running_call(directory: Path) -> None:
    """A new object, as after a restart, sees the whole output from its first byte, and the end."""
    first = make(directory)
    script = "for i in {1..10}; do echo line $i; done; until [ -e go ]; do sleep 0.02; done; "
    script += "for i in {11..20}; do echo line $i; sleep 0.01; done; exit 5"
    await first.start(ENVIRONMENT, "c1", ["bash", "-c", script], env=PATH, limits=Limits())
    await until(lambda: b"line 10\n" in printed_by(directory, "c1"))
    second = make(directory)
    await second.ready(ENVIRONMENT)
    assert await second.known(ENVIRONMENT) == {"c1": True}
    (directory / "workspace" / "go").touch()
    ended, printed = await wait(second, "c1")
    assert ended is not None
    assert ended.code == 5
    assert printed.decode().splitlines() == [f"line {i}" for i in range(1, 21)]
    assert ended == await first.wait(ENVIRONMENT, "c1")


CLIENT = """
import asyncio, os, sys
from pathlib import Path
from services.environment_manager.adapters.processes import ShimProcesses
from services.environment_manager.ports import Limits

async def main():
    shims = ShimProcesses(lambda _: Path(sys.argv[1]))
    argv = ["bash", "-c", "for i in {1..50}; do echo line $i; sleep 0.02; done; exit 7"]
    await shims.start("shop-1-development", "c1", argv, env={"PATH": os.environ["PATH"]}, limits=Limits())
    await shims.wait("shop-1-development", "c1", on_output)

async def on_output(offset, data):
    print("seen", flush=True)

asyncio.run(main())
"""


async def test_a_call_outlives_the_client_that_was_killed(directory: Path) -> None:
    """kill -9 in the middle: the next one has the complete output in order and the exit status."""
    shims = make(directory)
    client = subprocess.Popen(  # noqa: ASYNC220 - killed at once
        [sys.executable, "-c", CLIENT, str(directory)], cwd=REPOSITORY, stdout=subprocess.PIPE, start_new_session=True
    )
    assert client.stdout is not None
    await asyncio.to_thread(client.stdout.readline)
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    client.stdout.close()
    ended, printed = await wait(shims, "c1")
    assert ended is not None
    assert (ended.cause, ended.code) == ("exited", 7)
    assert printed.decode().splitlines() == [f"line {i}" for i in range(1, 51)]


@pytest.mark.parametrize("also_keepers", [False, True])
async def test_a_killed_shim_leaves_nothing_running(directory: Path, also_keepers: bool) -> None:
    """What ran is unknown (None), ended, daemons too; what had ended is still known; a new shim starts."""
    shims = make(directory)
    done, _ = await run(shims, "c0", "true")
    argv = ["bash", "-c", f"setsid sleep {LONG} & trap '' TERM; echo up; while :; do sleep 0.1; done"]
    await shims.start(ENVIRONMENT, "c1", argv, env=PATH, limits=Limits())
    waiting = asyncio.ensure_future(shims.wait(ENVIRONMENT, "c1"))
    await until(lambda: printed_by(directory, "c1"))
    shim = shim_pid(directory)
    alive = processes()
    keepers = [pid for pid, (parent, _) in alive.items() if parent == shim]
    assert len(keepers) == 1
    for pid in [shim, *(keepers if also_keepers else [])]:
        send_signal((pid, alive[pid][1]), signal.SIGKILL)
    assert await waiting is None
    assert left(directory) == []
    assert processes_named(LONG) == []
    assert await shims.known(ENVIRONMENT) == {"c0": False, "c1": False}
    assert await shims.wait(ENVIRONMENT, "c0") == done
    assert await shims.wait(ENVIRONMENT, "c1") is None
    again, _ = await run(shims, "c2", "true")
    assert again is not None


async def test_a_killed_keeper_leaves_nothing_running(directory: Path) -> None:
    """The shim ends what the keeper kept, however well that hid, and says that the call's end is unknown."""
    shims = make(directory)
    argv = ["bash", "-c", f"(env -i setsid sleep {LONG} &) ; trap '' TERM; echo up; while :; do sleep 0.1; done"]
    await shims.start(ENVIRONMENT, "c1", argv, env=PATH, limits=Limits())
    await until(lambda: printed_by(directory, "c1") and processes_named(LONG))
    shim = shim_pid(directory)
    (keeper,) = [pid for pid, (parent, _) in processes().items() if parent == shim]
    os.kill(keeper, signal.SIGKILL)
    assert await shims.wait(ENVIRONMENT, "c1") is None
    assert processes_named(LONG) == []
    assert left(directory) == [shim]


async def test_ready_after_the_shim_died_ends_what_it_left(directory: Path) -> None:
    """Before anything new is started, leftovers of the shim before are gone."""
    shims = make(directory)
    await shims.start(ENVIRONMENT, "c1", ["sleep", LONG], env=PATH, limits=Limits())
    os.kill(shim_pid(directory), signal.SIGKILL)
    await shims.ready(ENVIRONMENT)
    assert processes_named(LONG) == []
    assert len(left(directory)) == 1


async def test_a_shim_that_is_dying_is_not_taken_for_a_living_one(directory: Path) -> None:
    """It keeps its lock for a moment longer than its connections: what it left is ended all the same."""
    lock = os.open(directory / "shim.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    variables = {**PATH, DIRECTORY_VARIABLE: str(directory.resolve()), CALL_VARIABLE: "c1"}
    program = await asyncio.create_subprocess_exec("sleep", LONG, env=variables)
    sweeping = asyncio.create_task(asyncio.to_thread(sweep, directory))
    await asyncio.sleep(0.02)
    os.close(lock)
    await sweeping
    assert await asyncio.wait_for(program.wait(), 5.0) == -signal.SIGKILL


async def test_the_shim_ends_with_its_directory(directory: Path) -> None:
    """An environment that is removed behind its back takes its processes with it."""
    shims = make(directory)
    await shims.start(ENVIRONMENT, "c1", ["sleep", "33333"], env=PATH, limits=Limits(grace_seconds=1))
    (directory / "shim.sock").unlink()
    await until(lambda: not left(directory), 15)


async def test_a_deep_directory_works(tmp_path: Path) -> None:
    """The address of a socket is short, a path may be long."""
    directory = tmp_path / ("d" * 120) / ("e" * 120)
    shims = make(directory)
    ended, printed = await run(shims, "c1", "echo", "deep")
    await shims.close(ENVIRONMENT)
    assert printed == b"deep\n"
    assert ended is not None
    assert left(directory) == []
