"""Which runs a process takes: a program is left to a host that can run it."""

from __future__ import annotations

import msgspec
import pytest

from events.agents import ProgramAgent
from events.errors import Transient
from events.kernel import replace
from events.preflight import Finding, Sign
from services.agent_runner.handlers import Handlers
from services.agent_runner.shown import ShownLeases
from tests.unit.runner_twins import Runs

BAD, GOOD = Finding(problem="'claude' is not there"), Finding(said="1.0")


def tell(runs: Runs, **hosts: Finding) -> None:
    for host, finding in hosts.items():
        runs.memory.hosts.announce(host, msgspec.json.encode(Sign(programs={"claude": finding})))


async def taking(runs: Runs) -> Handlers:
    leases = ShownLeases(runs.memory.leases, runs.clock, runner="runner", host="here", seconds=15.0)
    return Handlers(await runs.plumbing(), leases)


@pytest.fixture
async def runs() -> Runs:
    runs = Runs()
    await runs.ask_for_the_run()
    runs.command = replace(runs.command, agent=ProgramAgent(command=("claude", "-p")))
    return runs


async def test_run_is_left_to_a_host_that_has_its_program(runs: Runs) -> None:
    """It is given back before anything of it has begun."""
    tell(runs, here=BAD, there=GOOD)
    with pytest.raises(Transient, match="on another host it can be run"):
        await (await taking(runs)).handle(runs.envelope())
    assert await runs.events() == []


@pytest.mark.parametrize("hosts", [{}, {"here": GOOD}, {"here": BAD}, {"here": BAD, "there": BAD}])
async def test_run_is_taken_where_no_other_host_is_better(runs: Runs, hosts: dict[str, Finding]) -> None:
    """Also where nobody can run it: then its end says why."""
    tell(runs, **hosts)
    await (await taking(runs)).handle(runs.envelope())
    assert next(type(event).__name__ for event in await runs.events()) == "RunStarted"


async def test_run_that_has_begun_is_taken_up(runs: Runs) -> None:
    """Its workspace stands somewhere, and its calls go there."""
    await (await taking(runs)).handle(runs.envelope())
    tell(runs, here=BAD, there=GOOD)
    await (await taking(runs)).handle(runs.envelope())
