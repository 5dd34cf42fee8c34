"""A cluster of three NATS servers, three replicas: any one of them may be killed, one after another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from events.environment import ToolCallCompleted
from events.run import RunSucceeded
from events.task import TaskCompleted
from tests.nats_cluster import NatsCluster
from tests.system.examples import bare_remote, lines
from tests.system.two_hosts import TwoHosts

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

CALLS = 40
BETWEEN_KILLS = 6


def turns(ran: Path, hold: Path) -> list[dict[str, Any]]:
    """Many short commands, each counted outside the workspace; none ends while ``hold`` is there."""
    command = f"echo ran >> '{ran}'; date +%N > now; sleep 0.2; while [ -e '{hold}' ]; do sleep 0.05; done"
    return [
        {"repeat": CALLS, "calls": [{"tool": "shell", "arguments": {"command": command}}]},
        {"calls": [{"tool": "submit", "arguments": {"summary": "Done."}}]},
    ]


async def test_work_goes_on_while_any_node_is_killed(tmp_path: Path) -> None:
    """Nothing that was acknowledged is lost, and no finished call runs again; a killed node comes back and serves."""
    ran, hold = tmp_path / "ran", tmp_path / "hold"
    cluster = NatsCluster(tmp_path / "nats")
    await asyncio.to_thread(cluster.start)
    try:
        hosts = TwoHosts(tmp_path, cluster.url, turns(ran, hold), replicas=3)
        async with hosts:
            await hosts.task(bare_remote(tmp_path / "remote"), "test -s now")
            await hosts.until(ToolCallCompleted, 2)
            for node in cluster.nodes:
                await asyncio.to_thread(node.kill)
                await hosts.until(ToolCallCompleted, len(hosts.all(ToolCallCompleted)) + BETWEEN_KILLS)
                hold.touch()  # However long the node takes to have everything, the next is killed while a call runs.
                await asyncio.to_thread(node.start)
                await hosts.settled()
                hold.unlink()
            await hosts.until(TaskCompleted, seconds=60.0)

            assert lines(ran) == ["ran"] * CALLS
            assert len(hosts.all(RunSucceeded)) == 1
            kept = [record.envelope.id for record in await hosts.replayed()]
            assert kept == list(dict.fromkeys(record.envelope.id for record, _ in hosts.happened))
    finally:
        cluster.stop()
