"""Watching as a process of its own: Ctrl-C ends the watching, and nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.command_line.rows import task_row
from tests.command_line.stub_gateway import KEY, Answer, StubGateway, decision, frame, stream


def test_interrupting_only_stops_watching(gateway: StubGateway) -> None:
    """The command says that the task goes on, ends with 130, and sends nothing."""
    requested = {"type": "RunRequested", "stage": "development", "attempt": 1, "agent_name": "coder"}
    said = stream(frame(8, decision(8, "task", "shop-1", requested)))
    gateway.on("GET /tasks/shop-1", Answer(task_row(status="running")))
    gateway.on("GET /events/stream", Answer(said.body, kind=said.kind, hold_seconds=60.0))
    command = [sys.executable, "-m", "services.command_line", "--url", gateway.url, "--key", KEY]
    with subprocess.Popen(
        [*command, "task", "watch", "shop-1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "shop-1:\n"
        assert "attempt 1 with agent coder" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=50)
    assert process.returncode == 130
    assert "the task goes on" in error
    assert "Traceback" not in error
    assert {request.method for request in gateway.requests} == {"GET"}
