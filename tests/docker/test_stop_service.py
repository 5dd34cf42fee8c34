"""Containers asked to end."""

from __future__ import annotations

import pytest

from events.faults import StopService
from tests.docker.ground import Ground

pytestmark = pytest.mark.integration


async def test_it_may_end_by_itself(ground: Ground) -> None:
    """The container gets its signal and ends by itself, stays down, and runs again when the fault is undone."""
    obeys = ["sh", "-c", "trap 'exit 7' TERM; while true; do sleep 0.05; done"]
    await ground.up("obedient", argv=obeys)
    await ground.engine.request("POST", f"containers/{ground.made['obedient']}/update", body={"RestartPolicy": {}})
    await ground.inject(StopService(service="obedient", grace_seconds=1, duration_seconds=60))
    state = await ground.state("obedient")
    assert state["Running"] is False
    await ground.undo()
    assert (await ground.state("obedient"))["Running"]
