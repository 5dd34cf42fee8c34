"""Containers killed through the engine."""

from __future__ import annotations

import pytest

from events.faults import KillService
from tests.docker.ground import CONNECT, Ground

pytestmark = pytest.mark.integration


async def test_down_until_it_is_undone(ground: Ground) -> None:
    """A killed container stays down under any restart policy, and runs again when the fault is undone; injecting again
    what was injected does nothing, also when it runs again."""
    await ground.up("api", "database", RestartPolicy={"Name": "always"})
    fault = KillService(service="database", duration_seconds=60)
    whom = await ground.resolve(fault)
    injected = await ground.inject(fault)
    state = await ground.state("database")
    assert (state["Running"], state["ExitCode"]) == (False, 137)
    assert (await ground.run("api", CONNECT, whom.hit[0].addresses[0], 0.5))["how"] != "connected"
    await ground.engine.start(ground.made["database"])
    await ground.faults.inject(injected.fault_id, fault, whom, injected.until)
    assert (await ground.state("database"))["Running"]
    await ground.engine.kill(ground.made["database"])
    await ground.undo()
    await ground.undo()
    assert (await ground.state("database"))["Running"]
    await ground.answers("database")
    assert (await ground.run("api", CONNECT, "database", 20))["how"] == "connected"
