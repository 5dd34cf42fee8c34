"""Every layer that a fault stands on, killed: the service, the holder, the container that is hit, the reaper."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from events.faults import AddLatency, AnyFault, DropNetwork, LimitBandwidth, PauseService
from infra.clock import SystemClock
from services.chaos.adapters import records
from services.chaos.ports import FaultRecord, Undone
from services.chaos.watch import Watch
from tests.docker.ground import CONNECT, IMAGE, Ground
from tests.engine import BASE_IMAGE
from tests.waiting import until

pytestmark = pytest.mark.integration

# Another process of the same stack that injects a fault and lives on.
INJECTS = """
import asyncio, sys, time
from events.faults import parse
from infra.docker.engine import Engine
from services.chaos.adapters.faults import DockerFaults
import msgspec
async def main():
    environment, image, base, fault, seconds = sys.argv[1:]
    faults = DockerFaults(Engine(), tenant="test", host="test", owner=environment, image=image, base_image=base)
    fault = parse(msgspec.json.decode(fault))
    whom = await faults.resolve(environment, fault)
    await faults.inject(environment + "-f1", fault, whom, time.time() + float(seconds))
    print("injected", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def watching(ground: Ground) -> AsyncIterator[list[Undone]]:
    """Somebody who looks after the faults, as the service and the reaper do; what was undone."""
    undone: list[Undone] = []

    async def told(each: Undone, reason: str) -> None:
        undone.append(each)

    task = asyncio.create_task(Watch(ground.another(), SystemClock(), undone=told).run())
    try:
        yield undone
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def started(argv: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process of the product."""
    return subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE)


def _read_until(stream: IO[bytes], line: bytes) -> None:
    assert line in iter(stream.readline, b"")


async def gone(ground: Ground) -> None:
    """Wait until no record is left."""

    async def none_is_left() -> bool:
        return not await ground.holders()

    await until(none_is_left, seconds=20.0)


async def held(ground: Ground, met: Callable[[tuple[FaultRecord, ...]], bool]) -> None:
    """Wait until the records are like that."""

    async def are_like_that() -> bool:
        return met(await ground.faults.active())

    await until(are_like_that, seconds=20.0)


async def test_its_end_comes_when_it_is_due(ground: Ground) -> None:
    """Faults of each sort, nobody undoes: whoever watches clears them away at their end, on time."""
    await ground.up("api", "database", "cache")
    async with watching(ground) as undone:
        pause = await ground.inject(PauseService(service="cache", duration_seconds=6), f"{ground.environment}-f1")
        link = DropNetwork(service="api", peer="database", duration_seconds=6)
        await ground.inject(link, f"{ground.environment}-f2")
        await ground.until("cache", lambda state: not state["Paused"], seconds=30.0)
        assert 0 <= time.time() - pause.until < 15
        await gone(ground)
    assert [each.stuck for each in undone] == [()] * len(undone)
    assert (await ground.run("api", CONNECT, "database", 20))["how"] == "connected"


async def test_the_service_is_killed(ground: Ground, tmp_path: Path) -> None:
    """A process that injected a pause is killed; the reaper, which knows nothing of it and has neither NATS nor log,
    ends it on time. The reaper is killed too, and the next one does it."""
    await ground.up("api")
    fault = '{"kind": "pause_service", "service": "api", "duration_seconds": 60}'
    environ = {
        **os.environ,
        "CAIRN_HOME": str(tmp_path),
        "CAIRN_WORKER__HOST": "test",
        "CAIRN_TENANT": "test",
        "CAIRN_CHAOS__IMAGE": IMAGE,
        "CAIRN_CHAOS__BASE_IMAGE": BASE_IMAGE,
    }
    owner = f"test test {tmp_path}"
    ground.owns(owner)
    argv = [sys.executable, "-c", INJECTS.replace("owner=environment", f"owner={owner!r}")]
    injecting = started([*argv, ground.environment, IMAGE, BASE_IMAGE, fault, "15"], environ)
    assert injecting.stdout is not None
    await asyncio.to_thread(_read_until, injecting.stdout, b"injected\n")
    injecting.kill()
    await asyncio.to_thread(injecting.communicate)
    assert (await ground.state("api"))["Paused"]
    for last in (False, True):
        reaper = started([sys.executable, "-m", "services.chaos.reaper"], environ)
        try:
            if last:
                await ground.until("api", lambda state: not state["Paused"], seconds=40.0)
                await gone(ground)
            else:
                await asyncio.sleep(1.0)
                assert (await ground.state("api"))["Paused"]
        finally:
            reaper.send_signal(signal.SIGTERM if last else signal.SIGKILL)
            await asyncio.to_thread(reaper.communicate, timeout=30)
            code = reaper.returncode
        assert code == (0 if last else -signal.SIGKILL)


async def test_the_holder_is_killed_and_nobody_watches(ground: Ground) -> None:
    """With its holder killed, and nobody there to do anything, the kernel ends a partition and a latency by itself, and
    whoever comes later clears away what they left."""
    await ground.up("api", "database", "cache")
    slow = AddLatency(service="cache", delay_milliseconds=400, duration_seconds=15)
    await ground.inject(slow, f"{ground.environment}-f2")
    await ground.inject(DropNetwork(service="api", peer="database", duration_seconds=15), f"{ground.environment}-f1")
    for holder in await ground.holders(running=True):
        await ground.engine.kill(holder["Id"])
    # A queue that nobody serves lets everything through at once.
    assert await ground.round_trip("cache", "api", 9) < 300
    assert (await ground.run("api", CONNECT, "database", 0.3))["how"] == "TimeoutError"

    async def is_over() -> bool:
        return bool((await ground.run("api", CONNECT, "database", 0.5))["how"] == "connected")

    await until(is_over, seconds=40.0)
    assert await ground.rules("api") != ""
    for number in (1, 2):
        await ground.undo(f"{ground.environment}-f{number}")


async def test_the_holder_is_killed_and_somebody_watches(ground: Ground) -> None:
    """A holder that was killed is replaced as long as its fault has to last, and what the killed one left is undone;
    bandwidth, for which the kernel keeps no end, too."""
    await ground.up("api")
    await ground.inject(LimitBandwidth(service="api", kilobits_per_second=1000, duration_seconds=60))
    before = (await ground.faults.active())[0]
    await ground.engine.kill(before.id)
    assert "tbf cafe:" in await ground.rules("api")
    async with watching(ground):
        await held(ground, lambda active: active[0].holds)

        async def is_limited_again() -> bool:
            return "tbf cafe:" in await ground.rules("api")

        await until(is_limited_again, seconds=20.0)  # It undoes what the killed one left before it begins.
    assert (await ground.faults.active())[0].fault_id == before.fault_id
    await ground.undo()
    assert await ground.rules("api") == ""


async def test_the_holder_is_killed_and_the_fault_undone(ground: Ground) -> None:
    """What a killed holder left is undone in its place, long before its end."""
    await ground.up("api", "database")
    await ground.inject(LimitBandwidth(service="api", kilobits_per_second=1000, duration_seconds=600), "bandwidth")
    await ground.inject(DropNetwork(service="api", peer="database", duration_seconds=600), "partition")
    for holder in await ground.holders(running=True):
        await ground.engine.kill(holder["Id"])
    assert "tbf cafe:" in await ground.rules("api")
    await ground.undo("bandwidth")
    await ground.undo("partition")
    assert (await ground.run("api", CONNECT, "database", 20))["how"] == "connected"


async def test_the_target_starts_anew(ground: Ground) -> None:
    """A container that is restarted in the middle, and one that comes back with another address, are hit again: what is
    held is held until its end."""
    await ground.up("api", "database")
    fault = DropNetwork(service="api", peer="database", duration_seconds=60)
    await ground.inject(fault)
    before = {record.hit: record for record in await ground.faults.active()}
    await ground.engine.kill(ground.made["database"])
    # Whoever starts first gets the address that is free, as it is some time after the container has ended.
    await until(lambda: has_no_address(ground, "database"))
    await ground.up("stranger", argv=["sleep", "60"])
    async with watching(ground):
        await ground.engine.start(ground.made["database"])
        await ground.answers("database")
        whom = await ground.resolve(fault)
        new = whom.peers[0].addresses
        await held(ground, lambda active: _held_against(active, ground.made["api"], new))
        for name, peer in (("api", new[0]), ("database", "api")):
            await until(partial(is_cut, ground, name, peer), seconds=20.0)  # A holder runs before it holds.
    assert new != before[ground.made["api"]].peers
    await ground.undo()
    assert (await ground.run("api", CONNECT, "database", 20))["how"] == "connected"


async def is_cut(ground: Ground, name: str, peer: str) -> bool:
    return bool((await ground.run(name, CONNECT, peer, 0.4))["how"] == "TimeoutError")


async def has_no_address(ground: Ground, name: str) -> bool:
    networks = (await ground.engine.inspect(ground.made[name]))["NetworkSettings"]["Networks"]
    return not any(network["IPAddress"] for network in networks.values())


def _held_against(active: tuple[FaultRecord, ...], hit: str, peers: tuple[str, ...]) -> bool:
    return (
        len(active) == 2
        and all(record.holds for record in active)
        and (hit, peers) in [(record.hit, record.peers) for record in active]
    )


async def test_the_target_is_removed(ground: Ground) -> None:
    """With the container that is hit gone, nothing is left to undo, whatever the fault: its records go."""
    await ground.up("api", "database")
    await ground.inject(
        AddLatency(service="api", delay_milliseconds=50, duration_seconds=60), f"{ground.environment}-f1"
    )
    await ground.inject(PauseService(service="database", duration_seconds=60), f"{ground.environment}-f2")
    for name in ("api", "database"):
        await ground.engine.remove(ground.made.pop(name))
    for number in (1, 2):
        await ground.undo(f"{ground.environment}-f{number}")


async def test_killed_between_the_mark_and_the_deed(ground: Ground) -> None:
    """A record of a pause that was never done, because its maker died right after the mark, is undone as well; one of a
    holder that was made and not started, too."""
    await ground.up("api", "database")
    pause = PauseService(service="api", duration_seconds=60)
    slow = AddLatency(service="database", delay_milliseconds=9, duration_seconds=60)
    both: tuple[AnyFault, ...] = (pause, slow)
    for number, fault in enumerate(both):
        await ground.inject(fault, f"{ground.environment}-f{number}")
        (record,) = await ground.holders()
        inspected = await ground.engine.inspect(record["Id"])
        await ground.undo(f"{ground.environment}-f{number}")
        kept = {key: inspected["Config"][key] for key in ("Image", "Cmd", "Env", "Labels")}
        again = {**kept, "HostConfig": inspected["HostConfig"]}
        await ground.engine.create(again, name=inspected["Name"].removeprefix("/"))
        assert [found.fault_id for found in await ground.faults.active()] == [f"{ground.environment}-f{number}"]
        assert records.BEFORE in record["Labels"]
        await ground.undo(f"{ground.environment}-f{number}")
    assert not (await ground.state("api"))["Paused"]
