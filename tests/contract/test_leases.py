"""What everybody can see of who holds which run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from infra.ports import RunLease
from tests.contract.conftest import Plumbing
from tests.waiting import until


def lease(run: str, runner: str = "r1") -> RunLease:
    return RunLease(run_id=run, runner=runner, host="here")


async def seen(plumbing: Plumbing, *leases: RunLease) -> None:
    """Wait until these are held, and no others."""

    async def are_held() -> bool:
        return _holders((await plumbing.leases.held()).values()) == _holders(leases)

    await until(are_held)


def _holders(leases: Iterable[RunLease]) -> set[tuple[str, str, str]]:
    return {(item.run_id, item.runner, item.host) for item in leases}


async def test_held_runs_are_seen_with_their_holders(plumbing: Plumbing) -> None:
    """The last one who said it counts."""
    plumbing.leases.hold(lease("a"), 60.0)
    plumbing.leases.hold(lease("b"), 60.0)
    plumbing.leases.hold(lease("b", "r2"), 60.0)
    await seen(plumbing, lease("a"), lease("b", "r2"))


async def test_lease_that_is_not_said_again_lapses(plumbing: Plumbing) -> None:
    """Each after its own time, without anybody doing anything."""
    plumbing.leases.hold(lease("long"), 60.0)

    async def are_held() -> bool:
        plumbing.leases.hold(lease("short"), 1.0)
        return _holders((await plumbing.leases.held()).values()) == _holders([lease("short"), lease("long")])

    await until(are_held)
    await seen(plumbing, lease("long"))


async def test_released_run_is_held_no_more(plumbing: Plumbing) -> None:
    """At once; another may hold it then."""
    plumbing.leases.hold(lease("a"), 60.0)
    await seen(plumbing, lease("a"))
    plumbing.leases.release("a")
    await seen(plumbing)
    plumbing.leases.hold(lease("a", "r2"), 60.0)
    await seen(plumbing, lease("a", "r2"))


async def test_lease_tells_since_when_nothing_was_heard_and_when_it_lapses(plumbing: Plumbing) -> None:
    """Both are told anew by each word of the holder."""
    plumbing.leases.hold(lease("a"), 60.0)
    await seen(plumbing, lease("a"))
    await asyncio.sleep(0.5)
    (held,) = (await plumbing.leases.held()).values()
    assert 0.4 < held.silent_seconds < 10.0
    assert held.silent_seconds + held.lapses_seconds == pytest.approx(60.0)
    plumbing.leases.hold(lease("a"), 60.0)

    async def is_heard() -> bool:
        return (await plumbing.leases.held())["a"].silent_seconds < held.silent_seconds

    await until(is_heard)
