"""Faults as data: what can be asked for, and what cannot."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from events.errors import Invalid
from events.faults import KINDS, AddLatency, AnyFault, DropNetwork, Fault, KillService, check, parse

REQUIRED: dict[str, dict[str, Any]] = {
    "add_latency": {"delay_milliseconds": 100},
    "packet_loss": {"percent": 10},
    "limit_bandwidth": {"kilobits_per_second": 1000},
    "cpu_limit": {"cpus": 0.5},
    "memory_stress": {"megabytes": 64},
    "disk_fill": {"path": "/data"},
}


def document(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "service": "api", "duration_seconds": 10, **REQUIRED.get(kind, {}), **fields}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_and_written(kind: str) -> None:
    """A document of every kind is read, and written it is read again as the same."""
    fault = parse(document(kind))
    assert fault.kind == kind
    assert fault.takes
    assert msgspec.json.decode(msgspec.json.encode(fault), type=AnyFault) == fault


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [None, 0, -1, 601, 1e300, float("nan"), float("inf"), "10", True])
def test_every_fault_ends(kind: str, seconds: object) -> None:
    """No duration, zero, a negative, a huge one, and what is no number, are refused for every kind."""
    raw = document(kind, duration_seconds=seconds)
    if seconds is None:
        del raw["duration_seconds"]
    with pytest.raises(Invalid, match=rf"{kind}: .*duration_seconds"):
        parse(raw, longest_seconds=600)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "None is no kind of fault. There are: kill_service"),
        ({"kind": "kill"}, "'kill' is no kind of fault. Did you mean kill_service?"),
        ({"kind": "add_latancy"}, "Did you mean add_latency"),
        (document("kill_service", service=""), r"at `\$.service`"),
        (document("kill_service", service="../x"), r"at `\$.service`"),
        (document("kill_service", peer="b"), "unknown field `peer`"),
        (document("drop_network", peer="api"), "service and peer are both api"),
        (document("drop_network", mode="burn"), "Invalid enum value 'burn'"),
        (document("add_latency", delay_milliseconds=0), r"> 0.0 - at `\$.delay_milliseconds`"),
        (document("add_latency", jitter_milliseconds=101), "jitter_milliseconds is more than delay_milliseconds"),
        (document("packet_loss", percent=100.5), r"<= 100.0 - at `\$.percent`"),
        (document("limit_bandwidth", kilobits_per_second=1), r">= 8 - at `\$.kilobits_per_second`"),
        (document("cpu_limit", cpus=-1), r">= 0.01 - at `\$.cpus`"),
        (document("cpu_stress", workers=0), r">= 1 - at `\$.workers`"),
        (document("memory_stress", megabytes=0), r">= 1 - at `\$.megabytes`"),
        (document("disk_fill", path="data"), r"at `\$.path`"),
        (document("stop_service", grace_seconds=61), r"<= 60 - at `\$.grace_seconds`"),
    ],
)
def test_what_cannot_be(raw: object, message: str) -> None:
    """Each refusal names the field and what may stand there."""
    with pytest.raises(Invalid, match=message):
        parse(raw)


def test_a_fault_that_was_built_is_checked_too() -> None:
    """Structs that did not come from a document are held to the same."""
    for wrong in (
        KillService(service="a", duration_seconds=0),
        DropNetwork(service="a", peer="a", duration_seconds=1),
        AddLatency(service="a", delay_milliseconds=1, jitter_milliseconds=2, duration_seconds=1),
    ):
        with pytest.raises(Invalid):
            check(wrong)


def test_every_kind_says_what_it_is() -> None:
    """Tools and the command line show these words."""
    assert all(isinstance(kind, type(Fault)) and kind.__doc__ for kind in KINDS.values())
