"""Faults that a container of ours holds: beside the one that is hit, in its network namespace or its control group, or
on its volume. The holder's container is the record, and its program is in ``services.chaos.holder``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any

import msgspec

from events import faults
from events.errors import Transient
from infra.docker import labels
from infra.docker.engine import Conflicts, Json, NotThere
from services.chaos.adapters import records
from services.chaos.adapters.ground import (
    ENDS_SECONDS,
    HOLDER_BYTES,
    Ground,
    Method,
    Placed,
    confined,
    create_once,
    flinched,
    inspect,
    refused,
    run_once,
)
from services.chaos.holder.disk_fill import PLACE
from services.chaos.holder.order import written
from services.chaos.reconcile import IN_NETWORK

READY_SECONDS = 15.0
ASK_AGAIN_SECONDS = 1.0
RESTARTS = 3
# Where a container has no limit of its own, stress is bounded by this share of the host's memory.
SHARE_OF_HOST = 4
# What the engine's own default is, with cgroupfs.
PARENT = "/docker"


class Held(Method):
    async def inject(self, ground: Ground, placed: Placed) -> None:
        engine, fault = ground.engine, placed.fault
        place = await _place(ground, placed)
        parameters: dict[str, Any] = {**msgspec.to_builtins(fault), "container": placed.side.container.id}
        order = written(placed.name, fault.kind, placed.until, placed.side.peers, parameters)
        configuration: Json = {
            "Image": ground.image,
            "Cmd": ["hold"],
            "Env": [order],
            "Labels": placed.labels(ground),
            "HostConfig": {**place, "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": RESTARTS}},
        }
        holder, fresh = await create_once(engine, configuration, placed.name)
        try:
            await engine.start(holder)
            said = await _first_words(ground, holder, fresh=fresh)
        except TimeoutError as error:
            message = f"the holder of {fault.kind} on {placed.side.container.shown} did not get ready"
            raise flinched(message) from error
        except (Conflicts, NotThere) as error:
            message = f"{placed.side.container.shown} cannot be joined: {error}"
            raise refused(message) from error
        if said not in ("ready", "undone"):
            message = f"{fault.kind} on {placed.side.container.shown}: {said.removeprefix('refused ') or 'no answer'}"
            raise refused(message)

    async def undo(self, ground: Ground, record: Json, hit: Json | None) -> str:
        engine, holder = ground.engine, record["Id"]
        if record["State"]["Running"]:
            await _ended(ground, holder)
            record = await engine.inspect(holder)
        clean = record["State"]["Status"] == "created" or record["State"]["ExitCode"] == 0
        left = "" if clean else await self._swept(ground, record, hit)
        if not left:
            await engine.remove(holder)
        return left

    async def _swept(self, ground: Ground, record: Json, hit: Json | None) -> str:
        """Undo in the place of a holder that was killed; answers what is left."""
        found = records.read(record, record["Config"]["Labels"], runs=False)
        assert found is not None
        if isinstance(found.fault, IN_NETWORK):
            # A container that ended has taken its network with it.
            if hit is None or not hit["State"]["Running"] or hit["State"]["StartedAt"] != found.hit_started_at:
                return ""
        elif not isinstance(found.fault, faults.DiskFill):
            return ""  # All processes and memory of a holder go with its container.
        place = {**record["HostConfig"], "RestartPolicy": {"Name": "no"}}
        name = record["Name"].removeprefix("/") + "-undo"
        orders = [entry for entry in record["Config"]["Env"] if entry.startswith("CAIRN_FAULT=")]
        code, said = await run_once(ground, name, ["undo"], place, variables=orders, fault_id=found.fault_id)
        return said if code else ""


async def _place(ground: Ground, placed: Placed) -> Json:
    """Where the holder runs: its ``HostConfig``."""
    fault, hit = placed.fault, placed.hit
    if isinstance(fault, IN_NETWORK):
        mode = str(hit["HostConfig"]["NetworkMode"])
        if mode in ("host", "none") or mode.startswith("container:"):
            message = (
                f"{placed.side.container.shown} has no network of its own (network mode {mode}): "
                f"{fault.kind} would hit nobody, or others."
            )
            raise refused(message)
        return {**confined("NET_ADMIN"), "NetworkMode": f"container:{hit['Id']}"}
    group = f"{hit['HostConfig'].get('CgroupParent') or PARENT}/{hit['Id']}"
    if isinstance(fault, faults.CpuStress):
        return {**confined(), "CgroupParent": group}
    if isinstance(fault, faults.MemoryStress):
        stress_bytes = fault.megabytes << 20
        limit_bytes = int(hit["HostConfig"].get("Memory") or 0)
        most_bytes = limit_bytes or int((await ground.engine.info())["MemTotal"]) // SHARE_OF_HOST
        if stress_bytes > most_bytes:
            whose = "its limit" if limit_bytes else f"a quarter of the host's memory, as {fault.service} has no limit"
            message = f"{fault.kind}: {fault.megabytes} MB are more than {whose} ({most_bytes >> 20} MB)."
            raise refused(message)
        return {**confined(), "CgroupParent": group, "Memory": stress_bytes + HOLDER_BYTES}
    assert isinstance(fault, faults.DiskFill)
    volume = await _volume(ground, placed, fault.path)
    # The volume's folder may belong to any user.
    return {**confined("DAC_OVERRIDE"), "Mounts": [{"Type": "volume", "Source": volume, "Target": PLACE}]}


async def _volume(ground: Ground, placed: Placed, path: str) -> str:
    """The name of the volume at ``path``. Raises ``Permanent`` where filling it could fill the host's disk."""
    mounted = {mount["Destination"]: mount for mount in placed.hit["Mounts"] if mount["Type"] == "volume"}
    shown = placed.side.container.shown
    if path not in mounted:
        message = f"{shown} has no volume at {path}; it has {', '.join(sorted(mounted)) or 'none at all'}."
        raise refused(message)
    volume = await ground.engine.request("GET", f"volumes/{mounted[path]['Name']}")
    options = volume.get("Options") or {}
    sized = any(option.startswith("size=") for option in str(options.get("o", "")).split(","))
    if volume["Driver"] != "local" or options.get("type") != "tmpfs" or not sized:
        message = (
            f"the volume at {path} of {shown} is no tmpfs with a size, so filling it would fill the host's disk. In "
            "Compose: driver_opts: {type: tmpfs, device: tmpfs, o: size=64m}."
        )
        raise refused(message)
    if labels.ROLE in (volume.get("Labels") or {}):
        message = f"the volume at {path} of {shown} is one of Cairn's own."
        raise refused(message)
    return str(mounted[path]["Name"])


async def _ended(ground: Ground, holder: str) -> None:
    """Ask a holder to undo and end; one that does not in time is killed. It is asked again and again: a program that
    has only just started as the first of its container does not hear the signal."""
    engine = ground.engine
    deadline = time.monotonic() + ENDS_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(Conflicts):
            await engine.kill(holder, signal="SIGTERM")
        with contextlib.suppress(Transient):
            await engine.wait(holder, seconds=ASK_AGAIN_SECONDS)
            return
    with contextlib.suppress(Conflicts):
        await engine.kill(holder)


async def _first_words(ground: Ground, holder: str, *, fresh: bool) -> str:
    """What the holder says first after its last start. Raises ``TimeoutError``."""
    since = 0.0
    if not fresh:
        started_at = (await ground.engine.inspect(holder))["State"]["StartedAt"]
        since = datetime.fromisoformat(started_at[:26].rstrip("Z") + "+00:00").timestamp()
    async with asyncio.timeout(READY_SECONDS), contextlib.aclosing(_lines(ground, holder, since)) as lines:
        async for line in lines:
            return line
    record = await inspect(ground.engine, holder)
    return f"it ended at once ({record['State']['ExitCode']})" if record else "it is gone"


async def _lines(ground: Ground, holder: str, since: float) -> AsyncGenerator[str, None]:
    """What a container prints, as it comes: the engine's frames of a stream, each with eight bytes before it."""
    params = {"stdout": True, "stderr": True, "follow": True, "since": f"{since:.6f}"}
    rest, text = b"", b""
    async for piece in ground.engine.stream("GET", f"containers/{holder}/logs", params=params):
        rest += piece
        while len(rest) >= 8 and len(rest) >= 8 + (size := int.from_bytes(rest[4:8], "big")):
            text += rest[8 : 8 + size]
            rest = rest[8 + size :]
        *whole, text = text.split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
