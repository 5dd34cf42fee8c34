"""What all faults stand on: the engine, the holders' image, and containers that do one thing and end."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec

from events.errors import Permanent, Transient
from events.faults import AnyFault
from infra.docker import labels
from infra.docker.engine import Conflicts, Engine, Json, NotThere
from services.chaos.adapters import records
from services.chaos.ports import Side

ENDS_SECONDS = 20.0
# What a holder may use: its Python, and a queue of packet numbers.
HOLDER_BYTES = 128 << 20
HOLDER_PROCESSES = 96


class Ground(msgspec.Struct, frozen=True):
    """``image`` is the holders'; the rest stands in every label."""

    engine: Engine
    image: str
    tenant: str
    host: str
    owner: str
    home: str = ""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """A fault on one container: all that its record is made of. ``hit`` is that container as the engine shows it."""

    name: str
    fault_id: str
    target: str
    fault: AnyFault
    until: float
    side: Side
    hit: Json
    experiment_id: str = ""

    def labels(self, ground: Ground, before: Json | None = None) -> dict[str, str]:
        return records.written(
            owner=ground.owner,
            home=ground.home,
            tenant=ground.tenant,
            host=ground.host,
            experiment_id=self.experiment_id,
            fault_id=self.fault_id,
            target=self.target,
            fault=self.fault,
            until=self.until,
            side=self.side,
            before=before,
        )


class Method:
    """How one kind of fault is done to one container."""

    async def inject(self, ground: Ground, placed: Placed) -> None:
        """Idempotent. Raises ``Permanent`` where it cannot be."""
        raise NotImplementedError

    async def undo(self, ground: Ground, record: Json, hit: Json | None) -> str:
        """Make it as before, and answer what is left, empty where nothing is. ``record`` is the record's container,
        ``hit`` the one that is hit, where it still is there."""
        raise NotImplementedError


def confined(*capabilities: str) -> Json:
    """A container that may do nothing else."""
    return {
        "NetworkMode": "none",
        "CapDrop": ["ALL"],
        "CapAdd": list(capabilities),
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
        "Tmpfs": {"/run": "size=1m", "/tmp": "size=1m"},
        "Memory": HOLDER_BYTES,
        "PidsLimit": HOLDER_PROCESSES,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}},
    }


async def create_once(engine: Engine, configuration: Json, name: str) -> tuple[str, bool]:
    """The id of the container of that name, and whether it was made now."""
    try:
        return await engine.create(configuration, name=name), True
    except Conflicts:
        return str((await engine.inspect(name))["Id"]), False


async def run_once(
    ground: Ground, name: str, words: Sequence[str], place: Json, *, variables: Sequence[str] = (), fault_id: str = ""
) -> tuple[int, str]:
    """Run the holder's program for one thing; answers its exit code and the last line that it printed."""
    engine = ground.engine
    marks = {
        labels.ROLE: labels.FAULT,
        labels.TENANT: ground.tenant,
        labels.HOST: ground.host,
        labels.HOME: ground.home,
        records.OWNER: ground.owner,
        records.FAULT: fault_id,
        records.PART: words[0],
    }
    await engine.remove(name)  # One that did not get to its end.
    configuration: Json = {
        "Image": ground.image, "Cmd": list(words), "Env": list(variables), "Labels": marks, "HostConfig": place,
    }  # fmt: skip
    id = await engine.create(configuration, name=name)
    try:
        await engine.start(id)
        code = await engine.wait(id, seconds=ENDS_SECONDS)
        said = (await engine.logs(id, lines=20)).strip().splitlines()
    finally:
        await engine.remove(id)
    return code, said[-1] if said else ""


async def inspect(engine: Engine, container: str) -> Json | None:
    """None where it is gone."""
    with contextlib.suppress(NotThere):
        return await engine.inspect(container)
    return None


def refused(message: str, *, slug: str = "fault-refused") -> Permanent:
    return Permanent(message, slug=slug)


def flinched(message: str) -> Transient:
    return Transient(message)
