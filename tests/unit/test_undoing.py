"""Undoing a fault while somebody else undoes the same one: an engine that answers as the real one does then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from events.errors import Transient
from events.faults import PauseService
from infra.docker import labels
from infra.docker.engine import Engine, Json, NotThere
from services.chaos.adapters import records
from services.chaos.adapters.faults import DockerFaults
from services.chaos.ports import Side
from tests.unit.chaos_twins import containers

HIT = containers("shop-7-test")[0]
MARKS = records.written(
    owner="owner",
    home="",
    tenant="acme",
    host="build-1",
    experiment_id="",
    fault_id="f1",
    target="shop-7-test",
    fault=PauseService(service="api", duration_seconds=10),
    until=1.0,
    side=Side(container=HIT),
)


class RacedEngine(Engine):
    """It has a paused container and the mark of its fault. With ``overtaken`` somebody else has undone it between every
    look and what follows from it; without, it cannot unpause."""

    def __init__(self, *, overtaken: bool) -> None:
        super().__init__("unix:///nowhere")
        self.overtaken = overtaken
        self.paused = True
        self.marked = True

    async def containers(self, labels: Mapping[str, str] | Sequence[str], *, running: bool = False) -> list[Json]:
        return [{"Id": "mark", "Labels": MARKS}] if self.marked else []

    async def inspect(self, container: str) -> Json:
        if container == "mark" and self.marked:
            return {"Id": "mark", "Name": "/mark", "Config": {"Labels": MARKS}}
        if container == HIT.id:
            marks = {labels.ENVIRONMENT: HIT.target}
            return {"Id": HIT.id, "Name": "/api", "Config": {"Labels": marks}, "State": {"Paused": self.paused}}
        message = "No such container"
        raise NotThere(message)

    async def unpause(self, container: str) -> None:
        if self.overtaken:
            self.paused = self.marked = False
        message = f"the Docker engine failed: Container {container} is not paused"
        raise Transient(message)


def faults(engine: Engine) -> DockerFaults:
    return DockerFaults(engine, tenant="acme", host="build-1", owner="owner", image="", base_image="")


async def test_what_another_one_undid_is_undone() -> None:
    """An engine that refuses since somebody else was faster leaves nothing stuck."""
    engine = RacedEngine(overtaken=True)
    assert (await faults(engine).undo("f1")).stuck == ()
    assert not engine.paused


async def test_what_nobody_undid_is_stuck() -> None:
    """The same refusal, and the container stays paused: that is said, and the record stays."""
    engine = RacedEngine(overtaken=False)
    (stuck,) = (await faults(engine).undo("f1")).stuck
    assert stuck.startswith("api: the Docker engine failed")
    assert engine.marked
