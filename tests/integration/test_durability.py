"""With ``sync_interval: always`` an event is on the disk before it is acknowledged: seen in the server's system calls.

What can be seen is that the server waits for ``fsync`` of what it wrote before it answers, and that it does not with
its default setting. That the disk keeps what it was told to keep is the disk's promise. ``tests/power_loss`` cuts the
power.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from events.envelope import Envelope
from events.run import AgentReminded
from infra.durability import find
from infra.jetstream.connection import JetStream
from infra.settings import Nats, Settings
from tests.nats_server import NatsServer, free_port

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
]

TRACED = "trace=fsync,fdatasync,write,writev,pwrite64,sendto,sendmsg"
TEXT = "the-decision-that-is-looked-for"
ACK = re.compile(r'\\"seq\\":1[,}]')


def decision() -> Envelope:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    return Envelope(
        id="d1", tenant="default", entity="run", entity_id="r1", time=time, events=(AgentReminded(text=TEXT),)
    )


async def calls_of_one_append(directory: Path, *, sync_always: bool) -> list[str]:
    """What the server called, in order, from writing the event until it acknowledged it: write, sync or ack."""
    monitor = free_port()
    server = NatsServer(directory / "nats", sync_always=sync_always, settings=f"http: 127.0.0.1:{monitor}")
    server.start()
    try:
        url = f"http://127.0.0.1:{monitor}"
        assert (await find(Nats(monitor_url=url))).level == ("always" if sync_always else "interval")
        jetstream = await JetStream.connect(Settings(nats=Nats(url=server.url)), "durability")
        await jetstream.ensure_streams()
        trace = directory / "trace"
        command = ("strace", "-f", "-y", "-s", "4096", "-e", TRACED, "-o", str(trace), "-p", str(server.pid))
        tracing = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        assert tracing.stderr is not None
        said = (await tracing.stderr.readline()).decode()
        if "attached" not in said:
            pytest.skip(f"processes cannot be traced here: {said}")
        await jetstream.log.append(decision(), expected=0)
        await asyncio.sleep(0.3)
        tracing.terminate()
        await tracing.wait()
        await jetstream.close()
    finally:
        server.stop()
    return _steps(trace.read_text(errors="replace").splitlines())


def _steps(lines: list[str]) -> list[str]:
    """A sync counts when it has returned."""
    steps: list[str] = []
    syncing: set[str] = set()
    for line in lines:
        thread = line.split(maxsplit=1)[0]
        if TEXT in line and ".blk" in line:
            steps.append("write")
        elif "sync(" in line and ".blk" in line and steps:
            syncing.add(thread)
            if "unfinished" not in line:
                steps.append("sync")
        elif "sync resumed" in line and thread in syncing:
            steps.append("sync")
        elif ACK.search(line) and "EVENTS_default" in line:
            steps.append("ack")
    return steps[: steps.index("ack") + 1] if "ack" in steps else steps


async def test_always_syncs_before_it_acknowledges(tmp_path: Path) -> None:
    """Written, synced, acknowledged: in this order."""
    assert await calls_of_one_append(tmp_path, sync_always=True) == ["write", "sync", "ack"]


async def test_default_acknowledges_first(tmp_path: Path) -> None:
    """The other test can fail: without the setting nothing is synced before the acknowledgement."""
    assert await calls_of_one_append(tmp_path, sync_always=False) == ["write", "ack"]
