"""What it costs to keep every checkpoint for another host: calls that each change a file, with and without."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from events.environment import CheckpointBundled, ToolCallCompleted
from events.task import TaskCompleted
from tests.bench import worker
from tests.bench.table import Row, percentile
from tests.nats_server import NatsServer
from tests.system.two_hosts import TwoHosts

CALLS = 150


def _turns() -> list[dict[str, Any]]:
    command = "for n in 1 2 3 4 5; do date +%N >> file-$n; done"
    return [
        {"repeat": CALLS, "calls": [{"tool": "shell", "arguments": {"command": command}}]},
        {"calls": [{"tool": "submit", "arguments": {"summary": "Done."}}]},
    ]


async def _measure(home: Path, *, bundling: str) -> tuple[list[float], list[CheckpointBundled]]:
    """Seconds from one call's end to the next one's, and the bundles."""
    home.mkdir()
    server = NatsServer(home / "nats")
    server.start()
    try:
        hosts = TwoHosts(home, server.url, _turns(), environment={"CAIRN_WORKER__BUNDLE_CHECKPOINTS": bundling})
        async with hosts:
            await hosts.task(worker.repository(home / "repository"), "true")
            await hosts.until(TaskCompleted, seconds=120.0)
            ends = [record.envelope.time for record, event in hosts.happened if isinstance(event, ToolCallCompleted)]
            steps = [(later - earlier) / timedelta(seconds=1) for earlier, later in itertools.pairwise(ends)]
            return steps, hosts.all(CheckpointBundled)
    finally:
        server.stop()


def run() -> list[Row]:
    rows = []
    plain = 0.0
    with tempfile.TemporaryDirectory(prefix="cairn-bundles-") as folder:
        for bundling in ("never", "always"):
            steps, bundles = asyncio.run(_measure(Path(folder) / bundling, bundling=bundling))
            middle = percentile(steps, 0.5)
            plain = plain or middle
            rows.append(
                Row(
                    what=f"a step of a run whose every call changes five files, bundling {bundling}",
                    sync="default",
                    value=f"p50 {middle * 1000:.1f} ms, p95 {percentile(steps, 0.95) * 1000:.1f} ms",
                    ratio="" if bundling == "never" else f"{middle / plain:.2f}",
                    floor="" if bundling == "never" else "bundling never",
                )
            )
        stored = sum(item.content.size_bytes for item in bundles)
    rows.append(
        Row(
            what=f"bundles of {CALLS} such calls",
            sync="default",
            value=f"{len(bundles)} bundles, {stored / 1024:.0f} KiB stored, {stored / CALLS:.0f} bytes a call",
        )
    )
    return rows
