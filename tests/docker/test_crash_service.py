"""Main processes killed from the host."""

from __future__ import annotations

import pytest

from events.errors import Permanent
from events.faults import CrashService
from services.chaos.adapters.ground import confined, run_once
from tests.docker.ground import Ground

pytestmark = pytest.mark.integration


async def test_the_restart_policy_acts(ground: Ground) -> None:
    """A crashed container is started again by its restart policy before the fault ends."""
    await ground.up("api", RestartPolicy={"Name": "always"})
    before = (await ground.state("api"))["StartedAt"]
    await ground.inject(CrashService(service="api", duration_seconds=60))
    state = await ground.until("api", lambda state: state["Running"] and state["StartedAt"] != before)
    assert (await ground.engine.inspect(ground.made["api"]))["RestartCount"] == 1
    await ground.undo()
    assert (await ground.state("api"))["StartedAt"] == state["StartedAt"]


async def test_without_a_policy_it_is_started_at_the_end(ground: Ground) -> None:
    """Without a restart policy it stays down as after a crash, until the fault is undone."""
    await ground.up("api")
    await ground.inject(CrashService(service="api", duration_seconds=60))
    state = await ground.until("api", lambda state: not state["Running"])
    assert state["ExitCode"] == 137
    await ground.undo()
    assert (await ground.state("api"))["Running"]


async def test_a_process_of_another_container_is_not_hit(ground: Ground) -> None:
    """The program that kills looks whose the process is, and refuses one of another container."""
    await ground.up("api", "database")
    pid = (await ground.state("api"))["Pid"]
    place = {**confined("KILL"), "PidMode": "host"}
    words = ["crash", str(pid), ground.made["database"]]
    code, said = await run_once(ground.below, f"{ground.network}-crash", words, place)
    assert code == 3
    assert f"process {pid} is not of container {ground.made['database'][:12]}" in said
    assert (await ground.state("api"))["Pid"] == pid


async def test_what_does_not_run_cannot_crash(ground: Ground) -> None:
    """A container that is down already is refused, and nothing is left of the attempt."""
    await ground.up("api", argv=["true"])
    await ground.engine.wait(ground.made["api"], seconds=10)
    with pytest.raises(Permanent, match="api-1 does not run: start it before it is hit"):
        await ground.inject(CrashService(service="api", duration_seconds=60))
