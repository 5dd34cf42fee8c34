"""How long each service takes to be ready with a long history behind it: 100,000 events, then 1,000,000.

The history is that of agents at work, with one task for every run so that the scheduler has something to fold. The
first start of a service after the history has grown makes its snapshot or read model, and is shown beside the second
start, which begins from it. The server and PostgreSQL are up already.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import uvloop

from events import subjects
from events.envelope import Envelope
from events.project import ProjectSettings, Repository
from events.task import SubmitTask, TaskCompleted, TaskSpecification
from events.task_state import TASK
from infra.embedded.postgres_server import PostgresServer
from infra.jetstream.connection import JetStream
from infra.ports import EventLog
from infra.settings import Settings
from services.scheduler.deciders import task as decider
from tests.bench import agent_steps, worker
from tests.bench.table import Row

EVENTS = (100_000, 1_000_000)
EVENTS_A_RUN = agent_steps.STEPS * agent_steps.EVENTS_PER_STEP
SERVICES = (
    subjects.SCHEDULER,
    subjects.AGENT_RUNNER,
    subjects.ENVIRONMENT_MANAGER,
    subjects.NOTIFIER,
    subjects.PROJECTOR,
    subjects.GATEWAY,
)


async def _grow(settings: Settings, runs: range) -> None:
    jetstream = await JetStream.connect(settings, "bench")
    await jetstream.ensure_streams()
    await agent_steps.append(jetstream.log, runs)
    waiting = iter(runs)

    async def tasks() -> None:
        for number in waiting:
            await _append_task(jetstream.log, number)

    await asyncio.gather(*(tasks() for _ in range(50)))
    await jetstream.close()


async def _append_task(log: EventLog, number: int) -> None:
    id = f"bench-{number}"
    settings = ProjectSettings(repository=Repository(url="/nowhere"), prefix="bench")
    command = SubmitTask(specification=TaskSpecification(project="bench", title=f"Task {number}", agent="bench"))
    submitted = decider.submit(TASK.initial(id), command, number=number, submission_id=id, project=settings)
    envelope = Envelope(
        id=id,
        tenant=log.tenant,
        entity="task",
        entity_id=id,
        time=datetime.now(UTC),
        events=(*submitted, TaskCompleted()),
    )
    await log.append(envelope, expected=0)


def _started(settings: Settings, name: str, environment: dict[str, str]) -> float:
    began = time.perf_counter()
    program = worker.program(settings, name, environment)
    try:
        program.start(300.0)
        return time.perf_counter() - began
    finally:
        program.stop()


def run() -> list[Row]:
    rows = []
    with (
        worker.directory() as home,
        worker.nats_server(home, sync_always=False) as settings,
        PostgresServer(home / "postgres").start() as postgres,
    ):
        environment = {"CAIRN_POSTGRES__URL": postgres.url, "CAIRN_GATEWAY__PORT": "0"}
        runs = 0
        for events in EVENTS:
            grown = events // EVENTS_A_RUN
            uvloop.run(_grow(settings, range(runs, grown)))
            runs = grown
            for name in SERVICES:
                first = _started(settings, name, environment)
                again = _started(settings, name, environment)
                rows.append(
                    Row(
                        what=f"{name} ready, {events:,} events in the log",
                        sync="default",
                        value=f"{again:.2f} s (the first time {first:.2f} s)",
                        target="≤ 3 s",
                    )
                )
    return rows
