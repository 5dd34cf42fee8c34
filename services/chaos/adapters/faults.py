"""Faults in the containers of a Docker engine: the port ``Faults``, by one method for each kind.

The engine holds the records (``records``), so that any process can undo what another one injected. Containers are
looked at again right before anything is done to them: one that is not of the fault's target is never touched.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import structlog

from events import faults
from events.errors import Permanent, Transient
from events.faults import KINDS, AnyFault, DropNetwork
from infra.docker import labels
from infra.docker.engine import Engine, Json, NotThere
from infra.settings import Settings
from services.chaos import targets
from services.chaos.adapters import image, records
from services.chaos.adapters.cpu_limit import CpuLimit
from services.chaos.adapters.crash_service import CrashService
from services.chaos.adapters.ground import Ground, Method, Placed, confined, inspect, refused, run_once
from services.chaos.adapters.held import Held
from services.chaos.adapters.kill_service import KillService
from services.chaos.adapters.pause_service import PauseService, check_awake
from services.chaos.adapters.stop_service import StopService
from services.chaos.ports import Affected, Container, FaultRecord, Injected, Side, Undone
from services.chaos.reconcile import HELD, IN_NETWORK

log = structlog.get_logger()

METHODS: dict[type[faults.Fault], Method] = {
    faults.KillService: KillService(),
    faults.CrashService: CrashService(),
    faults.StopService: StopService(),
    faults.PauseService: PauseService(),
    faults.CpuLimit: CpuLimit(),
    **dict.fromkeys(HELD, Held()),
}
# How long what could not be done is taken to stay so.
LOOK_AGAIN_SECONDS = 30.0
# How long to wait before what is left is looked at again, each time; then it is stuck.
UNDO_AGAIN_SECONDS = (0.1, 0.5)
COMPOSE_NUMBER = "com.docker.compose.container-number"


class DockerFaults:
    """``owner`` tells the stacks apart that use this engine: each sees and undoes its own faults only, and none injects
    beside another's. ``home`` is the stack's, whose environments may be hit; ``projects`` are the Compose projects, not
    made by Cairn, that may be."""

    def __init__(
        self,
        engine: Engine,
        *,
        tenant: str,
        host: str,
        owner: str,
        image: str,
        base_image: str,
        projects: Sequence[str] = (),
        home: str = "",
    ) -> None:
        self._engine = engine
        self._ground = Ground(engine, image, tenant, host, owner, home)
        self._base_image = base_image
        self._projects = frozenset(projects)
        self._home = home
        self._injecting = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._cannot: dict[str, str] = {}
        self._look_at = 0.0

    @classmethod
    def of(cls, settings: Settings, engine: Engine) -> DockerFaults:
        """As the settings say: the chaos service and its reaper see the same faults."""
        return cls(
            engine,
            tenant=settings.tenant,
            host=settings.host,
            owner=f"{settings.tenant} {settings.host} {settings.home_path}",
            image=settings.chaos.image,
            base_image=settings.chaos.base_image,
            projects=settings.chaos.projects,
            home=str(settings.home_path),
        )

    # ---- what can be

    async def capabilities(self) -> dict[str, str]:
        found = await self._parts()
        return {kind: found.get(kind, "") for kind in KINDS}

    async def _parts(self) -> dict[str, str]:
        """Why not, of kinds and of parts of kinds. What the kernel lacks stays so; what kept us from asking it is tried
        again after a while, and an engine that did not answer is asked at once."""
        async with self._looking:  # The container that looks has one name: a second one would take it away.
            if time.monotonic() >= self._look_at:
                self._cannot, lasts_seconds = await self._probed()
                self._look_at = time.monotonic() + lasts_seconds
            return self._cannot

    async def _probed(self) -> tuple[dict[str, str], float]:
        """What cannot be, and for how long that is good."""
        try:
            host = await self._engine.info()
            await image.ensure(self._engine, self._ground.image, self._base_image)
        except (Transient, Permanent) as error:
            return dict.fromkeys(KINDS, str(error)), _lasts_seconds(error)
        found = _of_host(host)
        try:
            # One name for every try, so that a probe that was killed in the middle is cleared away by the next.
            name = f"cairn-fault-probe-{hashlib.sha256(self._ground.owner.encode()).hexdigest()[:16]}"
            code, said = await run_once(self._ground, name, ["probe"], confined("NET_ADMIN"))
            kernel = json.loads(said) if not code else dict.fromkeys(_network_kinds(), f"the probe failed: {said}")
            found |= kernel
        except (Transient, Permanent, ValueError) as error:
            return found | dict.fromkeys(_network_kinds(), f"the probe did not run: {error}"), _lasts_seconds(error)
        log.info("what this host cannot do", faults=found)
        return found, math.inf

    # ---- whom

    async def containers(self, target: str) -> tuple[Container, ...]:
        if target.startswith(targets.COMPOSE) and target.removeprefix(targets.COMPOSE) not in self._projects:
            message = (
                f"{target} may not be hit: name the project in this host's settings, "
                f'[chaos] projects = ["{target.removeprefix(targets.COMPOSE)}"].'
            )
            raise refused(message, slug="project-not-allowed")
        found = await self._engine.containers(targets.wanted_labels(target))
        of_target = [each["Id"] for each in found if targets.belongs(each["Labels"] or {}, target, self._home)]
        inspected = await asyncio.gather(*(inspect(self._engine, id) for id in of_target))
        return tuple(_container(target, each) for each in inspected if each is not None)

    async def resolve(self, target: str, fault: AnyFault) -> Affected:
        return targets.affected(target, fault, await self.containers(target))

    # ---- inject and undo

    async def inject(
        self, fault_id: str, fault: AnyFault, affected: Affected, until: float, *, experiment_id: str = ""
    ) -> Injected:
        began = time.monotonic()
        async with self._injecting:
            await self._check_can(fault, affected)
            sides = targets.sides(fault, affected)
            present = await self._records({})
            if why := targets.clash(fault_id, fault, sides, present):
                raise refused(why, slug="resource-taken")
            if fault_id not in {record.fault_id for record in present}:
                await self._check_states(fault, affected.target, sides)
            try:
                await self._hold(fault_id, fault, affected.target, sides, until, experiment_id)
            except (Transient, Permanent) as error:
                if isinstance(error, NotThere):
                    self._look_at = 0.0  # The image may have been removed: it is looked for again.
                # On all of them or on none: what is stuck is undone by whoever reconciles.
                await self.undo(fault_id)
                raise
        ids = tuple(side.container.id for side in sides)
        return Injected(fault_id=fault_id, until=until, containers=ids, seconds=time.monotonic() - began)

    async def renew(self, fault_id: str, affected: Affected) -> None:
        of_fault = [record for record in await self.active() if record.fault_id == fault_id]
        if not of_fault:
            return
        first = of_fault[0]
        sides = targets.sides(first.fault, affected)
        names = {targets.record_name(fault_id, side, held=True) for side in sides}
        stale = [record for record in of_fault if record.name not in names]
        # Both would take the same queueing discipline; other kinds leave no gap.
        before = stale if isinstance(first.fault, faults.LimitBandwidth) else []
        await asyncio.gather(*(self._undo_record(record.id) for record in before))
        await self._hold(fault_id, first.fault, first.target, sides, first.until, first.experiment_id)
        await asyncio.gather(*(self._undo_record(record.id) for record in stale))

    async def undo(self, fault_id: str) -> Undone:
        began = time.monotonic()
        marks = {labels.ROLE: labels.FAULT, records.OWNER: self._ground.owner, records.FAULT: fault_id}
        found = await self._engine.containers(marks)
        await asyncio.gather(*(self._engine.remove(each["Id"]) for each in found if records.PART in each["Labels"]))
        of_fault = [each["Id"] for each in found if records.PART not in each["Labels"]]
        left = await asyncio.gather(*(self._undo_record(id) for id in of_fault))
        stuck = tuple(why for why in left if why)
        return Undone(fault_id=fault_id, stuck=stuck, seconds=time.monotonic() - began)

    async def active(self) -> tuple[FaultRecord, ...]:
        return await self._records({records.OWNER: self._ground.owner})

    async def _records(self, marks: Json) -> tuple[FaultRecord, ...]:
        found = await self._engine.containers({labels.ROLE: labels.FAULT, **marks})
        read = (records.read(each, each["Labels"], runs=each["State"] == "running") for each in found)
        return tuple(record for record in read if record is not None)

    async def changes(self) -> AsyncIterator[None]:
        happened = self._engine.events({"type": ["container"], "event": ["start", "die"]})
        async for event in happened:
            if (event.get("Actor") or {}).get("Attributes", {}).get(labels.ROLE) != labels.FAULT:
                yield None

    # ---- one container

    async def _check_can(self, fault: AnyFault, affected: Affected) -> None:
        parts = await self._parts()
        alone = isinstance(fault, DropNetwork) and not affected.peers and fault.mode == "drop"
        if why := parts.get(fault.kind, "") or (parts.get("isolation", "") if alone else ""):
            message = f"{fault.kind} cannot be done on this host: {why}"
            raise refused(message, slug="not-capable")

    async def _check_states(self, fault: AnyFault, target: str, sides: Sequence[Side]) -> None:
        """Raises ``Permanent`` where a container is not in a state for a fault that is not there yet."""
        for side in sides:
            hit = await self._look(side.container.id, target)
            if not hit["State"]["Running"]:
                message = f"{side.container.shown} does not run: start it before it is hit."
                raise refused(message)
            if isinstance(fault, faults.PauseService):
                check_awake(hit, side.container.shown)

    async def _hold(
        self, fault_id: str, fault: AnyFault, target: str, sides: Sequence[Side], until: float, experiment_id: str
    ) -> None:
        method = METHODS[type(fault)]
        held = isinstance(fault, HELD)

        async def hold(side: Side) -> None:
            placed = Placed(
                name=targets.record_name(fault_id, side, held=held),
                fault_id=fault_id,
                target=target,
                fault=fault,
                until=until,
                side=side,
                hit=await self._look(side.container.id, target),
                experiment_id=experiment_id,
            )
            await method.inject(self._ground, placed)

        outcomes = await asyncio.gather(*(hold(side) for side in sides), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _look(self, id: str, target: str) -> Json:
        """The container as it is. Raises ``Permanent`` where it is gone, or not of the target."""
        hit = await inspect(self._engine, id)
        if hit is None:
            message = f"container {id[:12]} is gone."
            raise refused(message, slug="container-missing")
        if not targets.belongs(hit["Config"]["Labels"] or {}, target, self._home):
            message = f"container {hit['Name'].removeprefix('/')} does not belong to {target}: it is not touched."
            raise refused(message, slug="foreign-container")
        return hit

    async def _undo_record(self, id: str) -> str:
        """What is left, said with its container; empty where nothing is. Who undoes the same fault at the same time
        (the chaos service and its reaper do) may make the engine refuse one of the two: then it is looked at again, and
        what was undone by the other is undone."""
        for seconds in UNDO_AGAIN_SECONDS:
            if not await self._undo_once(id):
                return ""
            await asyncio.sleep(seconds)
        return await self._undo_once(id)

    async def _undo_once(self, id: str) -> str:
        record = await inspect(self._engine, id)
        if record is None:
            return ""
        found = records.read(record, record["Config"]["Labels"], runs=False)
        if found is None:
            return f"container {id[:12]} is no record that this version can read: see what it did, and remove it"
        hit = await inspect(self._engine, found.hit)
        name = found.hit[:12] if hit is None else hit["Name"].removeprefix("/")
        if hit is not None and not targets.belongs(hit["Config"]["Labels"] or {}, found.target, self._home):
            return f"{name} does not belong to {found.target}: {found.fault.kind} is not undone there"
        try:
            left = await METHODS[type(found.fault)].undo(self._ground, record, hit)
        except (Permanent, Transient) as error:
            left = str(error)
        return f"{name}: {left}" if left else ""


def _container(target: str, inspected: Json) -> Container:
    of = inspected["Config"]["Labels"] or {}
    networks: dict[str, Any] = inspected["NetworkSettings"]["Networks"] or {}
    addresses = (network.get(field) for network in networks.values() for field in ("IPAddress", "GlobalIPv6Address"))
    return Container(
        id=inspected["Id"],
        name=inspected["Name"].removeprefix("/"),
        target=target,
        service=of.get(labels.COMPOSE_SERVICE, ""),
        number=int(of.get(COMPOSE_NUMBER) or 1),
        addresses=tuple(address for address in addresses if address),
        networks=tuple(sorted(networks)),
        running=bool(inspected["State"]["Running"]),
        paused=bool(inspected["State"]["Paused"]),
        started_at=inspected["State"]["StartedAt"],
    )


def _lasts_seconds(error: Exception) -> float:
    """For how long what kept us from looking is taken to stay so."""
    return 0.0 if isinstance(error, Transient) else LOOK_AGAIN_SECONDS


def _network_kinds() -> list[str]:
    return [faults.kind_of(kind.__name__) for kind in IN_NETWORK]


def _of_host(host: Json) -> dict[str, str]:
    """What the engine's own account of the host rules out."""
    why: dict[str, str] = {}
    if str(host.get("CgroupVersion", "1")) != "1" or host.get("CgroupDriver") != "cgroupfs":
        because = (
            "it needs control groups of version 1 with the driver cgroupfs, to charge the stress to the container; "
            f"here are version {host.get('CgroupVersion', '?')} and {host.get('CgroupDriver', '?')}"
        )
        why |= {"cpu_stress": because, "memory_stress": because}
    if any("rootless" in str(option) for option in host.get("SecurityOptions") or ()):
        why["crash_service"] = "a rootless engine does not show the host's processes"
    return why
