"""From the submission of a task to its agent at work: one task after another, whole stack, warm repository.

The time goes from the HTTP request to ``RunStarted`` as a client that follows the log sees it. On the way: the
gateway, the scheduler (which decides, places, requests) and the runner that takes the run. The worktree is made at the
same time; a call of the agent waits for it. The next task is submitted when the one before has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import uvloop

from events.envelope import Recorded
from events.environment import EnvironmentPrepared
from events.kernel import Event
from events.names import environment_id, run_id
from events.run import RunStarted
from events.task import RunRequested, TaskBlocked, TaskCompleted, TaskFailed, TaskSubmitted
from infra.jetstream.connection import JetStream
from infra.settings import Settings
from services.command_line.client import Gateway
from tests.bench import worker
from tests.bench.table import Row, percentile
from tests.bench.whole_stack import SUBMIT, submit, whole_stack

TASKS = 40
WARM_UP = 5
PATIENCE_SECONDS = 60.0
AGENT = [{"calls": [{"tool": "write_file", "arguments": {"path": "done.txt", "content": "Done.\n"}}]}, SUBMIT]
STAGE = "development"


class Watcher:
    """When each kind of event of an entity was seen first."""

    def __init__(self) -> None:
        self.seen: defaultdict[tuple[str, type[Event]], asyncio.Future[float]] = defaultdict(
            asyncio.get_running_loop().create_future
        )

    def deliver(self, record: Recorded) -> None:
        for event in record.envelope.events:
            future = self.seen[record.envelope.entity_id, type(event)]
            if not future.done():
                future.set_result(time.perf_counter())


async def _one(gateway: Gateway, watcher: Watcher) -> list[float]:
    """Seconds from the request to each step on the way to the agent's start."""
    began = time.perf_counter()
    task = await asyncio.to_thread(submit, gateway, "quick")
    run = run_id(task, STAGE, 1)
    steps = [
        (task, TaskSubmitted),
        (task, RunRequested),
        (environment_id(task, STAGE), EnvironmentPrepared),
        (run, RunStarted),
    ]
    ends = [watcher.seen[task, kind] for kind in (TaskCompleted, TaskFailed, TaskBlocked)]
    async with asyncio.timeout(PATIENCE_SECONDS):
        times = [await watcher.seen[step] - began for step in steps]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not ends[0].done():
        raise RuntimeError(f"{task} was not completed")
    return times


async def _measure(gateway: Gateway, settings: Settings) -> list[list[float]]:
    jetstream = await JetStream.connect(settings, "bench")
    watcher = Watcher()
    following = await jetstream.log.follow(watcher.deliver, after=await jetstream.log.last_sequence())
    times = [await _one(gateway, watcher) for _ in range(WARM_UP + TASKS)]
    await following.close()
    await jetstream.close()
    return times[WARM_UP:]


def run() -> list[Row]:
    with worker.directory() as home, whole_stack(home, {"quick": AGENT}) as (gateway, settings):
        times = uvloop.run(_measure(gateway, settings))
    submitted, requested, prepared, started = (list(step) for step in zip(*times, strict=True))
    return [
        Row(
            what=f"submit → agent started, {TASKS} tasks one after another",
            sync="always",
            value=f"{_figures(started)} (submitted after {percentile(submitted, 0.5) * 1000:.0f} ms, "
            f"run requested after {percentile(requested, 0.5) * 1000:.0f} ms)",
        ),
        Row(what="submit → its worktree stands, made meanwhile", sync="always", value=_figures(prepared)),
    ]


def _figures(seconds: list[float]) -> str:
    return f"p50 {percentile(seconds, 0.5) * 1000:.0f} ms, p99 {percentile(seconds, 0.99) * 1000:.0f} ms"
