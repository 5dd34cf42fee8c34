"""A gateway in the test's own process, over real sockets and servers, with a scheduler that does the least."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from events import subjects
from events.agents import ProgramAgent
from events.envelope import CommandEnvelope, Envelope, Outcome
from events.errors import CommandRejected, NotFound
from events.kernel import Event
from events.pipeline import DEVELOPMENT
from events.project import AddProject, ProjectAdded, ProjectSettings, Repository
from events.task import CancelTask, RunRequested, SubmitTask, TaskCancelled, TaskSpecification, TaskSubmitted
from infra.api_keys import ensure_local_key
from infra.clock import SystemClock
from infra.consumer import Consumer
from infra.health import Health
from infra.jetstream.connection import JetStream
from infra.service import Runtime
from infra.settings import Gateway, Nats, Postgres, Settings
from projections.projector import Projector
from services.gateway.__main__ import start
from services.gateway.server import bind
from tests.waiting import until

REPOSITORY = Repository(url="/repositories/shop")
AGENT = ProgramAgent(command=("true",))


class Stack:
    """``client`` speaks to the gateway with the local key."""

    def __init__(self, url: str, key: str, jetstream: JetStream, settings: Settings) -> None:
        self.url = url
        self.key = key
        self.jetstream = jetstream
        self.settings = settings
        self.client = httpx2.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30.0, trust_env=False
        )
        self._numbers = itertools.count(1)

    async def append(self, entity: str, id: str, *events: Event, time: datetime | None = None) -> int:
        last = await self.jetstream.log.last(entity, id)
        envelope = Envelope(
            id=f"test-{next(self._numbers)}-{uuid.uuid4().hex[:8]}",
            tenant=self.settings.tenant,
            entity=entity,
            entity_id=id,
            time=time or datetime.now(UTC),
            events=events,
            actor="test",
        )
        return await self.jetstream.log.append(envelope, expected=last.sequence if last else 0)

    async def request_run(self, task: str, stage: str = "development", attempt: int = 1) -> str:
        """A task with a requested run; answers with the run's id."""
        submitted = TaskSubmitted(
            specification=TaskSpecification(project="shop", title="Mend the total"),
            number=1,
            submission_id="s",
            pipeline=DEVELOPMENT,
            repository=REPOSITORY,
            test_command="true",
            max_attempts=2,
        )
        run = f"{task}-{stage}-{attempt}"
        requested = RunRequested(
            stage=stage,
            attempt=attempt,
            run_id=run,
            environment_id=f"{task}-{stage}",
            agent_name="coder",
            agent=AGENT,
            prompt="Mend it",
        )
        await self.append("task", task, submitted, requested)
        return run


@contextlib.asynccontextmanager
async def gateway_stack(nats_url: str, home: Path, *, postgres_url: str = "", **gateway: Any) -> AsyncIterator[Stack]:
    settings = Settings(
        tenant=f"t{uuid.uuid4().hex[:12]}",
        home=str(home),
        nats=Nats(url=nats_url),
        postgres=Postgres(url=postgres_url),
        gateway=Gateway(port=0, **{"outcome_timeout_seconds": 30.0, **gateway}),
    )
    key = ensure_local_key(home)
    jetstream = await JetStream.connect(settings, "test")
    await jetstream.ensure_streams()
    bound = bind(settings.gateway)
    url = "http://{}:{}".format(*bound.getsockname())
    serving = await start(Runtime("gateway", settings, jetstream, SystemClock(), Health("gateway")), bound)
    stack = Stack(url, key, jetstream, settings)
    try:
        yield stack
    finally:
        await serving.stop()
        await stack.client.aclose()
        await jetstream.close()


@contextlib.asynccontextmanager
async def scheduler(stack: Stack) -> AsyncIterator[list[CommandEnvelope]]:
    """Decides projects and tasks in the simplest way; yields the commands it got."""
    seen: list[CommandEnvelope] = []

    async def handle(envelope: CommandEnvelope) -> Outcome:
        seen.append(envelope)
        match envelope.command:
            case AddProject(settings=settings):
                return await _append(stack, "project", envelope.entity_id, ProjectAdded(settings=settings))
            case SubmitTask(specification=specification):
                if specification.project == "nowhere":
                    raise NotFound("there is no project 'nowhere'.", slug="unknown-project")
                submitted = TaskSubmitted(
                    specification=specification,
                    number=1,
                    submission_id=envelope.id,
                    pipeline=DEVELOPMENT,
                    repository=REPOSITORY,
                    test_command="",
                    max_attempts=2,
                )
                return await _append(stack, "task", "shop-1", submitted)
            case CancelTask(reason=reason):
                return await _append(stack, "task", envelope.entity_id, TaskCancelled(reason=reason))
            case _:
                raise CommandRejected("that cannot be done now.", slug="not-now", status=409)

    async with _consuming(stack, subjects.SCHEDULER, handle):
        yield seen


@contextlib.asynccontextmanager
async def _consuming(stack: Stack, service: str, handle: Any) -> AsyncIterator[None]:
    jetstream = stack.jetstream
    consumer = Consumer(
        jetstream.source,
        jetstream.commands,
        jetstream.dead_letters,
        service=service,
        durable=f"{service}-{stack.settings.tenant}",
        stream=subjects.COMMANDS,
        filters=[subjects.command(stack.settings.tenant, service, subjects.ANY, "*", "*")],
        handler=handle,
        concurrency=4,
        lease_seconds=10,
    )
    await consumer.start()
    try:
        yield
    finally:
        await consumer.stop(1.0)


async def _append(stack: Stack, entity: str, id: str, event: Event) -> Outcome:
    sequence = await stack.append(entity, id, event)
    return Outcome(accepted=True, entity=entity, entity_id=id, sequence=sequence, events=(type(event).__name__,))


@contextlib.asynccontextmanager
async def projecting(stack: Stack) -> AsyncIterator[None]:
    """The real projector at work; the read models are there."""
    projector = Projector(stack.jetstream.log, stack.settings.postgres.url, SystemClock())
    work = asyncio.create_task(projector.run())
    try:

        async def answers() -> bool:
            return (await stack.client.get("/api/v1/projects")).status_code == 200

        await until(answers, seconds=30.0)
        yield
    finally:
        work.cancel()
        await asyncio.wait([work])


class Frame(msgspec.Struct):
    id: str
    name: str
    data: Any


async def frames(stack: Stack, path: str, last_id: str = "", **parameters: Any) -> AsyncIterator[Frame]:
    """The events of a stream that carry data, as they come, until the gateway ends it."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with stack.client.stream("GET", f"/api/v1{path}", params=parameters, headers=headers) as response:
        if response.status_code != 200:
            await response.aread()
            raise AssertionError(response.text)
        id, name, data = "", "message", ""
        async for line in response.aiter_lines():
            field, _, value = line.partition(": ")
            match field:
                case "id":
                    id = value
                case "event":
                    name = value
                case "data":
                    data += value
                case "" if data:
                    yield Frame(id, name, json.loads(data))
                    name, data = "message", ""


async def first(count: int, stream: AsyncIterator[Frame]) -> Sequence[Frame]:
    """The first ``count`` frames; the connection is closed then."""
    found = []
    async with contextlib.aclosing(stream) as open_stream:  # type: ignore[type-var]
        async for frame in open_stream:
            found.append(frame)
            if len(found) == count:
                break
    return found


def project_settings(**changes: Any) -> ProjectSettings:
    return ProjectSettings(repository=REPOSITORY, prefix="shop", **changes)
