"""Both implementations of the plumbing behind one face: each test of this folder runs over each."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime

import pytest

from events import subjects
from events.envelope import CommandEnvelope, Envelope
from events.environment import InterruptCall
from events.run import AgentReminded
from infra.jetstream.connection import JetStream
from infra.memory import Memory
from infra.ports import (
    CommandBus,
    CommandSource,
    ContentStore,
    DeadLetter,
    DeadLetters,
    Delivered,
    EventLog,
    Following,
    OutputStore,
    RunLeases,
)
from infra.settings import Nats, Settings
from tests.nats_cluster import NatsCluster
from tests.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Plumbing:
    """``publish`` puts any bytes on any subject, as a stranger might."""

    def __init__(self, tenant: str, real: JetStream | Memory, publish: Callable[[str, bytes], Awaitable[None]]) -> None:
        self.tenant = tenant
        self.log: EventLog = real.log
        self.commands: CommandBus = real.commands
        self.source: CommandSource = real.source
        self.content: ContentStore = real.content
        self.output: OutputStore = real.output
        self.dead_letters: DeadLetters = real.dead_letters
        self.leases: RunLeases = real.leases
        self.publish = publish

    def decision(self, id: str, entity_id: str = "r1", *, entity: str = "run", text: str = "on") -> Envelope:
        return Envelope(
            id=id, tenant=self.tenant, entity=entity, entity_id=entity_id, time=NOW, events=(AgentReminded(text=text),)
        )

    def command(self, id: str, entity_id: str = "e1", *, entity: str = "environment") -> CommandEnvelope:
        command = InterruptCall(call_id="c1", reason="asked")
        return CommandEnvelope(id=id, tenant=self.tenant, entity=entity, entity_id=entity_id, time=NOW, command=command)

    async def letters(self, count: int) -> list[DeadLetter]:
        """The dead letters, as soon as there are so many: the replica that is asked may be behind the leader."""
        letters: list[DeadLetter] = []

        async def listed() -> bool:
            letters[:] = await self.dead_letters.list()
            return len(letters) == count

        await until(listed)
        return letters

    async def append(self, count: int, entity_id: str = "r1", *, entity: str = "run", name: str = "d") -> int:
        """Append so many decisions to a new entity; answer its last revision."""
        revision = 0
        for number in range(count):
            envelope = self.decision(f"{name}{number}", entity_id, entity=entity)
            revision = await self.log.append(envelope, expected=revision)
        return revision

    async def send(self, *ids: str, entity_id: str = "e1") -> None:
        for id in ids:
            assert await self.commands.send(subjects.ENVIRONMENT_MANAGER, "here", self.command(id, entity_id))

    @property
    def filters(self) -> Sequence[str]:
        return [f"cmd.{self.tenant}.{subjects.ENVIRONMENT_MANAGER}.here.environment.*"]

    async def take(
        self, deliver: Callable[[Delivered], None], *, lease_seconds: float = 5.0, capacity: int = 100
    ) -> Following:
        """Take the commands that ``send`` sends."""
        return await self.source.subscribe(
            f"{self.tenant}-taker",
            subjects.COMMANDS,
            self.filters,
            deliver,
            lease_seconds=lease_seconds,
            capacity=lambda: capacity,
        )


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Three real servers in a cluster, for streams with three replicas."""
    cluster = NatsCluster(tmp_path_factory.mktemp("cluster"))
    cluster.start()
    yield cluster.url
    cluster.stop()


@pytest.fixture(params=["memory", "jetstream", pytest.param("cluster", marks=pytest.mark.integration)])
async def plumbing(request: pytest.FixtureRequest) -> AsyncIterator[Plumbing]:
    tenant = f"t{uuid.uuid4().hex[:8]}"
    if request.param == "memory":
        memory = Memory(tenant)

        async def publish_there(subject: str, data: bytes) -> None:
            if subject.startswith("evt."):
                memory.log.publish(subject, data)
            else:
                memory.source.publish(subject, data)

        yield Plumbing(tenant, memory, publish_there)
        await memory.close()
        return
    if request.param == "cluster":
        nats = Nats(url=request.getfixturevalue("cluster_url"), replicas=3)
    else:
        nats = Nats(url=request.getfixturevalue("nats_url"))
    settings = Settings(tenant=tenant, nats=nats)
    stream = await JetStream.connect(settings, "contract")
    await stream.ensure_streams()

    async def publish_here(subject: str, data: bytes) -> None:
        await stream._requests.publish(subject, data, b"")

    yield Plumbing(tenant, stream, publish_here)
    await stream.close()
