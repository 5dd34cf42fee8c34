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

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

PER_KILL = 6
CALLS = 3 * PER_KILL + 2


def turns(ran: Path, allowed: Path) -> list[dict[str, Any]]:
    """Short commands, each counted outside the workspace; none ends before so many of them are ``allowed``."""
    waiting = f"until [ $(wc -l < '{ran}') -le $(cat '{allowed}') ]; do sleep 0.05; done"
    command = f"echo ran >> '{ran}'; {waiting}; date +%N > now"
    return [
        {"repeat": CALLS, "calls": [{"tool": "shell", "arguments": {"command": command}}]},
        {"calls": [{"tool": "submit", "arguments": {"summary": "Done."}}]},
    ]


async def test_work_goes_on_while_any_node_is_killed(tmp_path: Path) -> None:
    """Nothing that was acknowledged is lost, and no finished call runs again; a killed node comes back and serves."""
    ran, allowed = tmp_path / "ran", tmp_path / "allowed"
    allowed.write_text("1")
    cluster = NatsCluster(tmp_path / "nats")
    await asyncio.to_thread(cluster.start)
    try:
        hosts = TwoHosts(tmp_path, cluster.url, turns(ran, allowed), replicas=3)
        async with hosts:
            await hosts.task(bare_remote(tmp_path / "remote"), "test -s now")
            await hosts.until(ToolCallCompleted)
            for number, node in enumerate(cluster.nodes, 1):
                await asyncio.to_thread(node.kill)
                # However late any of this is seen here, the next node is killed while a call runs.
                allowed.write_text(str(1 + number * PER_KILL))
                await hosts.until(ToolCallCompleted, 1 + number * PER_KILL, seconds=60.0)
                await asyncio.to_thread(node.start)
                await hosts.settled()
            allowed.write_text(str(CALLS))
            await hosts.until(TaskCompleted, seconds=60.0)

            assert lines(ran) == ["ran"] * CALLS
            assert len(hosts.all(RunSucceeded)) == 1
            kept = [record.envelope.id for record in await hosts.replayed()]
            assert kept == list(dict.fromkeys(record.envelope.id for record, _ in hosts.happened))
    finally:
        cluster.stop()
