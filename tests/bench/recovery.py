"""A runner killed in the middle of a run, and started again on its host: time until the next step begins.

The run has 500, then 5,000 steps behind it when its runner gets SIGKILL. ``detection`` is from the kill to the new
process's ``RunResumed`` less what the log's own reading took; here both are told apart by the event's time: kill →
``RunResumed`` appended (process start, imports, connection, lease given back, history read and folded) and from there
to the next answer of the model.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from events import subjects
from events.agents import Limits, ModelAgent
from events.environment import EnvironmentPrepared, PrepareEnvironment
from events.run import ModelResponded, RunResumed, StartRun
from infra.clock import SystemClock
from infra.embedded.service_program import ServiceProgram
from infra.embedded.supervisor import Supervisor
from infra.entities import Cause
from infra.jetstream.connection import JetStream
from infra.sender import Sender
from infra.settings import Settings
from tests.bench import worker
from tests.bench.agent_loop import HOST, PATIENCE_SECONDS, PAYLOAD_BYTES, _until_last_is
from tests.bench.table import Row

STEPS = (500, 5_000)


def _transcript(path: Path, steps: int) -> Path:
    """``steps`` quick steps, one that waits long enough to be killed in, and some more."""
    quick = {"calls": [{"tool": "noop", "arguments": {"text": "x" * PAYLOAD_BYTES}}]}
    turns = [{"repeat": steps, **quick}, {"delay_seconds": 1.5, **quick}, {"repeat": 20, **quick}]
    path.write_text(json.dumps({"turns": turns}), encoding="utf-8")
    return path


async def _measure(settings: Settings, supervisor: Supervisor, runner: ServiceProgram, steps: int) -> Row:
    home = settings.home_path
    repository = worker.repository(home / f"repository-{steps}")
    jetstream = await JetStream.connect(settings, "bench")
    sender = Sender(jetstream.commands, SystemClock(), tenant=settings.tenant, name="bench")
    id = f"recovery-{steps}-development"
    await sender.send(
        subjects.ENVIRONMENT_MANAGER,
        HOST,
        "environment",
        id,
        PrepareEnvironment(task_id=id, repository_url=str(repository)),
        command_id=f"{id}-prepare",
        cause=Cause(id=id),
    )
    await _until_last_is(jetstream.log, "environment", [id], (EnvironmentPrepared,))
    command = StartRun(
        task_id=id,
        stage="development",
        attempt=1,
        environment_id=id,
        agent_name="bench",
        agent=ModelAgent(provider="scripted", transcript=str(_transcript(home / f"{steps}.json", steps))),
        prompt="Go.",
        limits=Limits(steps=0, seconds=0, idle_seconds=0),
        repository_url=str(repository),
    )
    run = f"{id}-1"
    await sender.send(
        subjects.AGENT_RUNNER, subjects.ANY, "run", run, command, command_id=f"{id}-start", cause=Cause(id=id)
    )
    record = None
    while record is None or _step(record.envelope.events[0]) < steps:
        await asyncio.sleep(0.05)
        record = await jetstream.log.last("run", run)
    await asyncio.sleep(0.3)
    killed_at = datetime.now(UTC)
    assert runner.pid is not None
    os.kill(runner.pid, signal.SIGKILL)
    resumed_at = next_at = None
    while next_at is None:
        assert (datetime.now(UTC) - killed_at).total_seconds() < PATIENCE_SECONDS, "the run does not go on"
        await asyncio.sleep(0.02)
        for later in await jetstream.log.load("run", run, after=record.sequence):
            for event in later.envelope.events:
                if isinstance(event, RunResumed):
                    resumed_at = later.envelope.time
                elif isinstance(event, ModelResponded) and resumed_at is not None and next_at is None:
                    next_at = later.envelope.time
    await jetstream.close()
    assert resumed_at is not None
    rebuild = (resumed_at - killed_at).total_seconds()
    # The step under way takes 1.5 s of the scripted model's time, which is the model's and not ours.
    following = (next_at - resumed_at).total_seconds() - 1.5
    return Row(
        what=f"runner killed after {steps:,} steps: kill → next step",
        sync="always",
        value=f"{rebuild + following:.2f} s (until resumed {rebuild:.2f} s, then {following * 1000:.0f} ms)",
        target="≤ 1 s, the same at both",
    )


def _step(event: object) -> int:
    return event.step if isinstance(event, ModelResponded) else 0


def run() -> list[Row]:
    rows = []
    with (
        worker.directory() as home,
        worker.nats_server(home, sync_always=True) as settings,
        worker.services(settings, (subjects.ENVIRONMENT_MANAGER,)),
    ):
        runner = worker.program(settings, subjects.AGENT_RUNNER)
        supervisor = Supervisor()
        supervisor.add(runner)
        try:
            supervisor.wait_until_ready(30.0)
            rows += [uvloop.run(_measure(settings, supervisor, runner, steps)) for steps in STEPS]
        finally:
            supervisor.stop()
    return rows
