"""How long each fault takes to inject and to undo in a real engine, and how near it comes to what was asked for.

Needs a Docker engine with the image that `.ci/engine` makes. ``sync`` does not matter here: no log is written.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from events.faults import (
    AddLatency,
    AnyFault,
    CpuLimit,
    CpuStress,
    CrashService,
    DiskFill,
    DnsFailure,
    DropNetwork,
    KillService,
    LimitBandwidth,
    MemoryStress,
    PacketLoss,
    PauseService,
    StopService,
)
from infra.docker.engine import Engine
from tests.bench.table import Row, percentile
from tests.docker.ground import DATAGRAMS, ROUND_TRIPS, Ground
from tests.docker.test_limit_bandwidth import SPEED

TIMES = 9
SECONDS = 120

FAULTS: dict[str, AnyFault] = {
    "kill_service": KillService(service="api", duration_seconds=SECONDS),
    "crash_service": CrashService(service="api", duration_seconds=SECONDS),
    "stop_service, no grace": StopService(service="api", grace_seconds=0, duration_seconds=SECONDS),
    "pause_service": PauseService(service="api", duration_seconds=SECONDS),
    "drop_network, two containers": DropNetwork(service="api", peer="database", duration_seconds=SECONDS),
    "drop_network, one from everybody": DropNetwork(service="api", duration_seconds=SECONDS),
    "add_latency": AddLatency(service="api", delay_milliseconds=100, duration_seconds=SECONDS),
    "packet_loss": PacketLoss(service="api", percent=10, duration_seconds=SECONDS),
    "limit_bandwidth": LimitBandwidth(service="api", kilobits_per_second=8000, duration_seconds=SECONDS),
    "dns_failure": DnsFailure(service="api", duration_seconds=SECONDS),
    "cpu_limit": CpuLimit(service="api", cpus=0.5, duration_seconds=SECONDS),
    "cpu_stress": CpuStress(service="api", duration_seconds=SECONDS),
    "memory_stress, 64 MB": MemoryStress(service="api", megabytes=64, duration_seconds=SECONDS),
    "disk_fill, 16 MB": DiskFill(service="api", path="/data", duration_seconds=SECONDS),
}


def run() -> list[Row]:
    return asyncio.run(_run())


async def _run() -> list[Row]:
    async with Engine() as engine:
        ground = Ground(engine, f"bench-{uuid.uuid4().hex[:8]}")
        await engine.request("POST", "networks/create", body={"Name": ground.network})
        try:
            await _up(ground)
            return [*[await _timed(ground, name, fault) for name, fault in FAULTS.items()], *await _measured(ground)]
        finally:
            await ground.down()


async def _up(ground: Ground) -> None:
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=16m"}
    volume = f"{ground.network}-data"
    await ground.engine.request("POST", "volumes/create", body={"Name": volume, "DriverOpts": options})
    ground.volumes.append(volume)
    await ground.up("api", Mounts=[{"Type": "volume", "Source": volume, "Target": "/data"}])
    await ground.up("database")
    await ground.faults.capabilities()


async def _timed(ground: Ground, name: str, fault: AnyFault) -> Row:
    injected, undone = [], []
    for number in range(TIMES):
        fault_id = f"{ground.environment}-{fault.kind}-{number}"
        injected.append(1000 * (await ground.inject(fault, fault_id)).seconds)
        undone.append(1000 * (await ground.undo(fault_id)).seconds)
    value = (
        f"injected in p50 {percentile(injected, 0.5):.0f} ms, p99 {percentile(injected, 0.99):.0f} ms; "
        f"undone in p50 {percentile(undone, 0.5):.0f} ms, p99 {percentile(undone, 0.99):.0f} ms"
    )
    return Row(what=name, sync="", value=value)


async def _measured(ground: Ground) -> list[Row]:
    await ground.answers("api")

    async def during(fault: AnyFault, script: str, *words: Any) -> Any:
        fault_id = f"{ground.environment}-{uuid.uuid4().hex[:8]}"
        await ground.inject(fault, fault_id)
        measured = await ground.run("api", script, "database", *words, seconds=60)
        await ground.undo(fault_id)
        return measured

    rows = []
    before = percentile(await ground.run("api", ROUND_TRIPS, "database", 200), 0.5)
    for asked, jitter in ((100, 0), (300, 0), (100, 20)):
        slow = AddLatency(service="api", delay_milliseconds=asked, jitter_milliseconds=jitter, duration_seconds=SECONDS)
        added = [each - before for each in await during(slow, ROUND_TRIPS, 40)]
        middle, least, most = (percentile(added, share) for share in (0.5, 0.05, 0.95))
        value = f"added p50 {middle:.1f} ms, p5 {least:.1f}, p95 {most:.1f}"
        rows.append(Row(what=f"add_latency {asked} ± {jitter} ms", sync="", value=value))
    slow = AddLatency(service="api", delay_milliseconds=100, duration_seconds=SECONDS)
    speed = await during(slow, SPEED, 20_000_000)
    rows.append(Row(what="throughput at 100 ms", sync="", value=f"{speed:.1f} MB/s"))
    for percent in (5, 30):
        lossy = PacketLoss(service="api", percent=percent, duration_seconds=SECONDS)
        back = (await during(lossy, DATAGRAMS, 20_000))["back"]
        rows.append(Row(what=f"packet_loss {percent} %", sync="", value=f"{100 - back / 200:.1f} %"))
    narrow = LimitBandwidth(service="api", kilobits_per_second=8000, duration_seconds=SECONDS)
    speed = await during(narrow, SPEED, 4_000_000)
    rows.append(Row(what="limit_bandwidth 8,000 kbit/s", sync="", value=f"{speed:.2f} MB/s"))
    return rows
