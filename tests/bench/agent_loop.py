"""The agent loop: R runs at once, 50 steps each, 1 KiB of arguments and results, a tool that does nothing.

Every step crosses two processes: the runner appends the model's answer with the call, the environment-manager
executes it and appends the result, the runner reads it. The floor is two awaited publishes of the same size a step,
by as many tasks as there are runs, in one client. It is timed from
the log: the first answer of any run to the last one.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import nats
import uvloop

from events import subjects
from events.agents import Limits, ModelAgent
from events.environment import EnvironmentInspected, EnvironmentPrepared, PrepareEnvironment
from events.kernel import Event
from events.run import RUN_ENDS, ModelResponded, StartRun
from infra.clock import SystemClock
from infra.embedded.service_program import read_run_file
from infra.entities import Cause
from infra.jetstream.connection import JetStream
from infra.ports import EventLog
from infra.sender import Sender
from infra.settings import Settings
from tests.bench import worker
from tests.bench.table import Row, percentile

STEPS = 50
PAYLOAD_BYTES = 1024
RUNS = (1, 16, 64)
HOST = "bench"
PATIENCE_SECONDS = 120.0
SETTLE_SECONDS = 3.0
TARGETS = {1: 0.25, 16: 0.2, 64: 0.2}


async def floor(settings: Settings, runs: int) -> float:
    """Steps a second of raw publishes, two awaited ones a step."""
    client = await nats.connect(settings.nats.url)
    jetstream = client.jetstream()
    payload = b"x" * PAYLOAD_BYTES

    async def steps(number: int) -> None:
        for _ in range(STEPS):
            await jetstream.publish(f"evt.default.floor.{number}", payload)
            await jetstream.publish(f"evt.default.floor.{number}", payload)

    began = time.perf_counter()
    await asyncio.gather(*(steps(number) for number in range(runs)))
    seconds = time.perf_counter() - began
    await client.close()
    return runs * STEPS / seconds


async def _until_last_is(log: EventLog, entity: str, ids: list[str], kinds: tuple[type[Event], ...]) -> None:
    """Wait until the last decision of every entity has one of ``kinds``. Asks seldom: what is measured has the
    machine. Raises ``TimeoutError`` after two minutes."""
    waiting = set(ids)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while waiting:
            await asyncio.sleep(0.25)
            for id in sorted(waiting):
                record = await log.last(entity, id)
                if record is None or not any(isinstance(event, kinds) for event in record.envelope.events):
                    break
                waiting.discard(id)


async def measure(
    settings: Settings, transcript: Path, repository: Path, runs: int, label: str
) -> tuple[float, list[float]]:
    """Steps a second over all runs, and the seconds of every step."""
    jetstream = await JetStream.connect(settings, "bench")
    before = await jetstream.log.last_sequence()
    sender = Sender(jetstream.commands, SystemClock(), tenant=settings.tenant, name="bench")
    ids = [f"{label}-{number}-development" for number in range(runs)]
    for id in ids:
        prepare = PrepareEnvironment(task_id=id, repository_url=str(repository))
        await sender.send(
            subjects.ENVIRONMENT_MANAGER,
            HOST,
            "environment",
            id,
            prepare,
            command_id=f"{id}-prepare",
            cause=Cause(id=id),
        )
    await _until_last_is(jetstream.log, "environment", ids, (EnvironmentPrepared,))
    agent = ModelAgent(provider="scripted", transcript=str(transcript))
    for id in ids:
        command = StartRun(
            task_id=id,
            stage="development",
            attempt=1,
            environment_id=id,
            agent_name="bench",
            agent=agent,
            prompt="Go.",
            limits=Limits(steps=STEPS + 1, seconds=600, idle_seconds=60),
            repository_url=str(repository),
        )
        await sender.send(
            subjects.AGENT_RUNNER,
            subjects.ANY,
            "run",
            f"{id}-1",
            command,
            command_id=f"{id}-start",
            cause=Cause(id=id),
        )
    await _until_last_is(jetstream.log, "environment", ids, (EnvironmentInspected,))
    await _hold_until_all_think(settings)
    await _until_last_is(jetstream.log, "run", [f"{id}-1" for id in ids], tuple(RUN_ENDS))
    answers: dict[str, list[datetime]] = defaultdict(list)
    async for records in jetstream.log.replay(after=before, entities=("run",)):
        for record in records:
            if any(isinstance(event, ModelResponded) for event in record.envelope.events):
                answers[record.envelope.entity_id].append(record.envelope.time)
    await jetstream.close()
    steps = [
        (after - before).total_seconds() for times in answers.values() for before, after in itertools.pairwise(times)
    ]
    assert len(steps) == runs * STEPS, f"{len(steps)} steps were taken, not {runs * STEPS}"
    seconds = (
        max(times[-1] for times in answers.values()) - min(times[0] for times in answers.values())
    ).total_seconds()
    return runs * STEPS / seconds, steps


async def _hold_until_all_think(settings: Settings) -> None:
    """Stop the runner until the first answer of every run is due, so that all take their steps at the same time."""
    runner = read_run_file(settings.home_path, subjects.AGENT_RUNNER)
    assert runner is not None
    os.kill(runner.pid, signal.SIGSTOP)
    await asyncio.sleep(SETTLE_SECONDS + 0.2)
    os.kill(runner.pid, signal.SIGCONT)


def write_transcript(path: Path) -> Path:
    """The first answer takes its time, so that every run has begun, and its workspace was looked at, before any
    takes a step."""
    quick = {"calls": [{"tool": "noop", "arguments": {"text": "x" * PAYLOAD_BYTES}}]}
    turns = [
        {"delay_seconds": SETTLE_SECONDS, **quick},
        {"repeat": STEPS - 1, **quick},
        {"calls": [{"tool": "submit", "arguments": {"summary": "Done."}}]},
    ]
    path.write_text(json.dumps({"turns": turns}), encoding="utf-8")
    return path


async def _rounds(settings: Settings, home: Path, sync: str) -> list[Row]:
    transcript = write_transcript(home / "turns.json")
    repository = worker.repository(home / "repository")
    rows = []
    await measure(settings, transcript, repository, 1, "warm")
    for runs in RUNS:
        floors = await floor(settings, runs)
        rate, steps = await measure(settings, transcript, repository, runs, f"r{runs}")
        rows.append(
            Row(
                what=f"agent loop, {runs} runs, {STEPS} steps each",
                sync=sync,
                value=f"{rate:,.0f} steps/s, step p50 {percentile(steps, 0.5) * 1000:.2f} ms, "
                f"p99 {percentile(steps, 0.99) * 1000:.2f} ms",
                ratio=f"{rate / floors:.2f}",
                floor=f"{floors:,.0f} raw steps/s",
                target=f"≥ {TARGETS[runs]}" if sync == "default" else "",
            )
        )
    return rows


def run() -> list[Row]:
    rows = []
    for sync_always in (False, True):
        with worker.directory() as home, worker.nats_server(home, sync_always=sync_always) as settings:
            names = (subjects.ENVIRONMENT_MANAGER, subjects.AGENT_RUNNER)
            with worker.services(settings, names):
                rows += uvloop.run(_rounds(settings, home, "always" if sync_always else "default"))
    return rows
