"""Whom faults hit, and what is to be done about those in the engine."""

from __future__ import annotations

import msgspec
import pytest

from events.errors import Invalid
from events.faults import AddLatency, AnyFault, CpuStress, DropNetwork, PacketLoss, PauseService
from infra.docker import labels
from services.chaos.ports import Container, FaultRecord
from services.chaos.reconcile import Missing, Renew, Undo, needs_containers, reconcile
from services.chaos.targets import affected, belongs, clash, record_name, sides

NOW = 1000.0
LINK = DropNetwork(service="api", peer="worker", duration_seconds=60)
PAUSE = PauseService(service="api", duration_seconds=60)


def container(service: str, number: int = 1, address: str = "10.0.0.1", **more: object) -> Container:
    fields = {"started_at": "first", **more}
    return Container(
        id=f"{service}-{number}",
        name=f"project-{service}-{number}",
        target="env",
        service=service,
        number=number,
        addresses=(address,) if address else (),
        **fields,  # type: ignore[arg-type]  # fields by name
    )


API, ONE, TWO = container("api"), container("worker", 1, "10.0.0.2"), container("worker", 2, "10.0.0.3")
ALL = {"env": (API, ONE, TWO)}


def recorded(fault: AnyFault, *containers: Container, until: float = NOW + 60) -> list[FaultRecord]:
    """What the engine holds of a fault that was injected on these containers."""
    return [
        FaultRecord(
            id=f"record-{number}",
            fault_id="f1",
            target="env",
            fault=fault,
            until=until,
            hit=side.container.id,
            hit_started_at=side.container.started_at,
            is_peer=side.is_peer,
            peers=side.peers,
        )
        for number, side in enumerate(sides(fault, affected("env", fault, containers)))
    ]


def test_services_containers_and_names() -> None:
    """A name is a service with all its containers, one of them, or a container's own name."""
    for name, found in (("worker", [ONE, TWO]), ("worker-2", [TWO]), ("project-api-1", [API])):
        fault = PauseService(service=name, duration_seconds=1)
        assert list(affected("env", fault, ALL["env"]).hit) == found


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (PauseService(service="wroker", duration_seconds=1), "env has no service wroker. Did you mean worker"),
        (PauseService(service="x", duration_seconds=1), "There are: api, worker"),
        (DropNetwork(service="worker", peer="worker-2", duration_seconds=1), "worker-2 is on both sides"),
        (DropNetwork(service="api", peer="silent", duration_seconds=1), "silent has no address in any network"),
    ],
)
def test_who_is_not_there(fault: AnyFault, message: str) -> None:
    """The refusal says who is there. A peer without an address is not taken for everybody."""
    silent = [container("silent", address="")] if "silent" in message else []
    with pytest.raises(Invalid, match=message):
        affected("env", fault, [*ALL["env"], *silent])


def test_both_sides_of_a_partition() -> None:
    """A partition is held on both sides, each against all of the other; a latency only where it was asked for."""
    found = [(side.container.id, side.peers, side.is_peer) for side in sides(LINK, affected("env", LINK, ALL["env"]))]
    assert found == [
        ("api-1", ("10.0.0.2", "10.0.0.3"), False),
        ("worker-1", ("10.0.0.1",), True),
        ("worker-2", ("10.0.0.1",), True),
    ]
    slow = AddLatency(service="api", peer="worker", delay_milliseconds=1, duration_seconds=1)
    assert [side.container.id for side in sides(slow, affected("env", slow, ALL["env"]))] == ["api-1"]


def test_nothing_to_do() -> None:
    """Faults that hold as they should are left alone."""
    assert reconcile(recorded(LINK, *ALL["env"]), ALL, NOW) == []
    assert reconcile(recorded(PAUSE, API), {}, NOW, known={"f1"}) == []


def test_what_is_over_is_undone() -> None:
    """At its end a fault is undone, whatever the log says, and once for all its containers."""
    for known in (None, {"f1"}, set()):
        actions = reconcile(recorded(LINK, *ALL["env"], until=NOW), ALL, NOW, known=known)
        assert [type(action) for action in actions] == [Undo]


def test_what_the_log_does_not_know_is_undone() -> None:
    """Only who reads the log may say so."""
    records = recorded(PAUSE, API)
    assert reconcile(records, {}, NOW, known=None) == []
    assert [type(action) for action in reconcile(records, {}, NOW, known=set())] == [Undo]


def test_what_the_engine_does_not_know_is_missing() -> None:
    """A fault that the log says holds, without a record, is told."""
    assert reconcile([], {}, NOW, known={"f2"}) == [Missing("f2")]


@pytest.mark.parametrize(
    "now",
    [
        container("worker", 2, "10.0.0.9"),  # another address
        container("worker", 2, "10.0.0.3", started_at="second"),  # another network of its own, with the same address
        container("worker", 3, "10.0.0.4"),  # another container, in its place
    ],
)
def test_who_started_anew_is_hit_again(now: Container) -> None:
    """A fault in a network is renewed where a container on either side is not the one that it was."""
    (action,) = reconcile(recorded(LINK, *ALL["env"]), {"env": (API, ONE, now)}, NOW)
    assert isinstance(action, Renew)
    assert now in action.affected.peers


def test_who_is_down_is_waited_for() -> None:
    """While nobody of a side runs there is nothing to hold; while one of several is down, the rest is held."""
    down = container("worker", 2, "", running=False)
    assert reconcile(recorded(LINK, API, TWO), {"env": (API, down)}, NOW) == []
    (action,) = reconcile(recorded(LINK, *ALL["env"]), {"env": (API, ONE, down)}, NOW)
    assert isinstance(action, Renew)
    assert action.affected.peers == (ONE,)


def test_a_dead_holder_is_replaced_in_a_network_only() -> None:
    """Stress whose holder the kernel ended for its memory is not tried again until its container starts anew."""
    (network,) = recorded(AddLatency(service="api", delay_milliseconds=1, duration_seconds=60), API)
    (stress,) = recorded(CpuStress(service="api", duration_seconds=60), API)
    dead = {"holds": False}
    assert len(reconcile([msgspec.structs.replace(network, **dead)], ALL, NOW)) == 1
    assert reconcile([msgspec.structs.replace(stress, **dead)], ALL, NOW) == []
    again = {"env": (container("api", started_at="second"),)}
    assert len(reconcile([msgspec.structs.replace(stress, **dead)], again, NOW)) == 1


def test_containers_are_asked_for_only_where_they_matter() -> None:
    """A paused container needs no look."""
    assert needs_containers(recorded(PAUSE, API)) == set()
    assert needs_containers(recorded(LINK, *ALL["env"])) == {"env"}


def test_names_of_records() -> None:
    """A held fault's record has another name after a start, and for other peers; a mark has one name for ever."""
    (before,) = sides(PAUSE, affected("env", PAUSE, [API]))
    (after,) = sides(PAUSE, affected("env", PAUSE, [container("api", started_at="second")]))
    assert record_name("f1", before, held=False) == record_name("f1", after, held=False)
    assert record_name("f1", before, held=True) != record_name("f1", after, held=True)


def test_faults_beside_each_other() -> None:
    """The same of one container can be taken once, but for links to different peers; a fault is not in its own way."""
    records = recorded(LINK, *ALL["env"])
    there = [*ALL["env"], container("db", 1, "10.0.0.9")]

    def why(fault: AnyFault, fault_id: str = "f2") -> str:
        return clash(fault_id, fault, sides(fault, affected("env", fault, there)), records)

    assert "api-1 is under drop_network (f1) already" in why(LINK)
    assert why(PacketLoss(service="worker-1", percent=1, duration_seconds=1))
    assert why(PacketLoss(service="worker-1", peer="api", percent=1, duration_seconds=1))
    assert not why(PacketLoss(service="api", peer="db", percent=1, duration_seconds=1))
    assert not why(AddLatency(service="api", delay_milliseconds=1, duration_seconds=1))
    assert not why(PAUSE)
    assert not why(LINK, "f1")


def test_whose_a_container_is() -> None:
    """Only services of the very environment or project belong to a target."""
    mine = {labels.ENVIRONMENT: "env", labels.COMPOSE_PROJECT: "shop"}
    assert belongs(mine, "env")
    assert belongs({**mine, labels.ROLE: labels.SERVICE}, "env")
    assert belongs(mine, "compose:shop")
    assert not belongs(mine, "env2")
    assert not belongs(mine, "compose:env")
    assert not belongs({}, "env")
    assert belongs({**mine, labels.HOME: "/here"}, "env", "/here")
    assert not belongs({**mine, labels.HOME: "/there"}, "env", "/here")
    assert not belongs({**mine, labels.ROLE: labels.SANDBOX}, "env")
