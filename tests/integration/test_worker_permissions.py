"""What a worker's key is good for at a real nats-server, with the permissions that `cairn deploy` writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import subjects
from events.errors import Permanent
from infra import deployment
from infra.jetstream.connection import JetStream
from infra.ports import Delivered, RunLease
from infra.settings import Nats, Settings
from tests.contract.conftest import Plumbing
from tests.nats_server import NatsServer
from tests.waiting import until

pytestmark = pytest.mark.integration

TENANT, OTHER = "acme", "rival"


class Deployed:
    """A deployment with a worker for each of two tenants, who is named as its tenant is."""

    def __init__(self, place: Path) -> None:
        self._place = place
        deployment.prepare(place, settings="")
        self._seeds = {name: deployment.add_worker(place, name, tenant=name) for name in (TENANT, OTHER)}
        users = (place / "secrets" / "nats" / "users.conf").read_text()
        self.server = NatsServer(place / "nats", settings=users)
        self._connected: list[JetStream] = []

    async def control(self, tenant: str) -> JetStream:
        """The control plane of a tenant, with its streams."""
        return await self._connect(tenant, credentials_file=str(self._place / "secrets" / "nats-control"))

    async def worker(self, tenant: str) -> JetStream:
        seed = self._place / f"{tenant}-seed"
        seed.write_text(self._seeds[tenant])
        inbox = deployment.inbox(tenant)
        return await self._connect(tenant, credentials_file=str(seed), inbox=inbox, manage_streams=False)

    async def _connect(self, tenant: str, **nats: Any) -> JetStream:
        settings = Settings(tenant=tenant, nats=Nats(url=self.server.url, **nats))
        jetstream = await JetStream.connect(settings, "test")
        self._connected.append(jetstream)
        await jetstream.ensure_streams()
        return jetstream

    async def close(self) -> None:
        for jetstream in self._connected:
            await jetstream.close()
        self.server.stop()


@pytest.fixture
async def deployed(tmp_path: Path) -> AsyncIterator[Deployed]:
    deployed = Deployed(tmp_path)
    deployed.server.start()
    for tenant in (TENANT, OTHER):
        await deployed.control(tenant)
    yield deployed
    await deployed.close()


def plumbing(jetstream: JetStream, tenant: str = TENANT) -> Plumbing:
    async def publish(subject: str, data: bytes) -> None:
        await jetstream._requests.publish(subject, data, b"")

    return Plumbing(tenant, jetstream, publish)


async def ask(jetstream: JetStream, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """A request to JetStream as somebody makes it who has nothing but the key."""
    reply = await jetstream._requests.request(f"$JS.API.{subject}", msgspec.json.encode(body or {}))
    answer: dict[str, Any] = msgspec.json.decode(reply.data)
    return answer


async def test_its_work(deployed: Deployed) -> None:
    """It writes events of its kinds and reads all, keeps contents of any size, prints, shows that it lives, tells the
    scheduler and the hosts of environments."""
    jetstream = await deployed.worker(TENANT)
    worker = plumbing(jetstream)
    heard: list[str] = []
    following = await jetstream.log.follow(lambda record: heard.append(record.envelope.id), after=0)
    for entity in ("run", "environment", "pull_request", "experiment", "chaos"):
        await worker.append(1, entity=entity)
    assert len(await worker.log.load("run", "r1")) == 1
    assert (await worker.log.last("run", "r1")) is not None
    assert [len(batch) async for batch in worker.log.replay()] == [5]
    await until(lambda: len(heard) == 5)
    await following.close()
    for size in (10, 2_500_000):
        data = b"x" * size
        assert await worker.content.get(await worker.content.put(data)) == data
    await worker.output.write("r1", "c1", 0, b"printed")
    jetstream.hosts.announce(TENANT)
    jetstream.leases.hold(RunLease(run_id="r1", runner="1", host=TENANT), 5.0)

    async def is_seen() -> bool:
        return TENANT in await jetstream.hosts.all()

    await until(is_seen)  # Nothing answers an announcement.
    await worker.dead_letters.put(subjects.AGENT_RUNNER, "x", b"", reason="r", detail="", deliveries=1)
    sent = (
        (subjects.SCHEDULER, subjects.ANY, "task"),
        (subjects.ENVIRONMENT_MANAGER, "another-host", "environment"),
        (subjects.ENVIRONMENT_MANAGER, "another-host", subjects.CALL_TOKEN),
        (subjects.CHAOS, TENANT, "experiment"),
    )
    for service, target, entity in sent:
        assert await worker.commands.send(service, target, worker.command(f"{service}-{entity}", entity=entity))


async def test_its_commands(deployed: Deployed) -> None:
    """What the control plane sends to this worker, or to any, it can take and settle."""
    jetstream = await deployed.worker(TENANT)
    control = plumbing(await deployed.control(TENANT))
    taken: list[Delivered] = []
    takings = [
        await jetstream.source.subscribe(
            durable, stream, [wanted], taken.append, lease_seconds=10.0, capacity=lambda: 8
        )
        for stream, durable, wanted in deployment._durables(TENANT, TENANT)
    ]
    for number, (_, _, wanted) in enumerate(deployment._durables(TENANT, TENANT)):
        _, _, service, target, entity, _ = wanted.split(".")
        assert await control.commands.send(service, target, control.command(f"c{number}", entity=entity))
    await until(lambda: len(taken) == len(takings))
    for delivered in taken:
        await delivered.ack()
    for taking in takings:
        await taking.close()


REQUESTS = {
    "another tenant's events": ("STREAM.INFO.EVENTS_rival", {}),
    "its messages": ("DIRECT.GET.EVENTS_rival", {"seq": 1}),
    "a consumer of them": ("CONSUMER.CREATE.EVENTS_rival.x", {}),
    "all streams": ("STREAM.LIST", {}),
    "any content by its place": ("DIRECT.GET.CONTENT", {"seq": 1}),
    "any content of the leader": ("STREAM.MSG.GET.CONTENT", {"seq": 1}),
    "another tenant's content": ("DIRECT.GET.CONTENT.content.rival.0", {}),
    "any output": ("DIRECT.GET.OUTPUT", {"seq": 1}),
    "any output of the leader": ("STREAM.MSG.GET.OUTPUT", {"seq": 1}),
    "a consumer of output": ("CONSUMER.CREATE.OUTPUT.x", {}),
    "any lease": ("DIRECT.GET.LEASES", {"seq": 1}),
    "any dead letter": ("DIRECT.GET.DEAD_LETTERS", {"seq": 1}),
    "any command": ("STREAM.MSG.GET.COMMANDS", {"seq": 1}),
    "its consumer with a filter that nobody sees": ("CONSUMER.CREATE.COMMANDS.environment-manager-acme-acme", {}),
    "its consumer with another filter": (
        "CONSUMER.CREATE.COMMANDS.environment-manager-acme-acme.cmd.acme.scheduler.any.*.*",
        {},
    ),
    "the calls of another worker": (
        "CONSUMER.CREATE.CALLS.environment-manager-acme-acme-calls.cmd.acme.environment-manager.other.call.*",
        {},
    ),
    "what another consumer takes": ("CONSUMER.MSG.NEXT.COMMANDS.scheduler-acme", {}),
    "the end of a consumer": ("CONSUMER.DELETE.COMMANDS.scheduler-acme", {}),
    "the end of the log": ("STREAM.DELETE.EVENTS_acme", {}),
    "an emptied stream": ("STREAM.PURGE.CONTENT", {}),
    "a changed stream": ("STREAM.UPDATE.EVENTS_acme", {}),
}


async def is_refused(request: Awaitable[object]) -> bool:
    try:
        await request
    except Permanent as error:
        return "may not publish to" in str(error)
    return False


async def test_what_it_may_not_ask_for(deployed: Deployed) -> None:
    """The server refuses it before JetStream hears of it."""
    worker = await deployed.worker(TENANT)
    assert [name for name, asked in REQUESTS.items() if not await is_refused(ask(worker, *asked))] == []


async def test_a_filter_that_is_not_the_subjects(deployed: Deployed) -> None:
    """A consumer whose body asks for other commands than its subject says is not made."""
    config = {"durable_name": "chaos-acme", "filter_subject": "cmd.acme.scheduler.>", "ack_policy": "explicit"}
    body = {"stream_name": "COMMANDS", "config": config}
    subject = "CONSUMER.CREATE.COMMANDS.chaos-acme.cmd.acme.chaos.any.chaos.*"
    answer = await ask(await deployed.worker(TENANT), subject, body)
    assert "did not match filtered subject" in answer["error"]["description"]


WRITTEN = (
    "evt.acme.task.t1",
    "evt.acme.project.p1",
    "evt.rival.run.r1",
    "cmd.acme.scheduler.any.project.p1",
    "cmd.acme.agent-runner.any.run.r1",
    "cmd.acme.environment-manager.any.pull_request.p1",
    "cmd.acme.chaos.other.experiment.x1",
    "cmd.acme.chaos.any.chaos.halt",
    "cmd.rival.environment-manager.rival.environment.e1",
    "host.acme.other",
    "content.rival.0",
    "out.rival.r1",
    "dead.acme.scheduler",
)


async def test_what_it_may_not_write(deployed: Deployed) -> None:
    """Facts of others, wishes that are not a worker's, and anything of another tenant."""
    worker = plumbing(await deployed.worker(TENANT))
    assert [subject for subject in WRITTEN if not await is_refused(worker.publish(subject, b"{}"))] == []


async def test_what_it_may_not_hear(deployed: Deployed) -> None:
    """Neither what others say nor the answers that others get."""
    jetstream = await deployed.worker(TENANT)
    heard: list[bytes] = []

    async def listen(wanted: str) -> None:
        await jetstream._client.receive(wanted, lambda subject, reply, headers, data: heard.append(subject))
        refusal = f'permissions violation for subscription to "{wanted}"'.lower()
        await until(lambda: refusal in str(jetstream._last_error).lower())

    for wanted in ("evt.>", "_INBOX.>", "_INBOX_rival.>", "$JS.API.>", ">"):
        await listen(wanted)
    await plumbing(await deployed.worker(OTHER), OTHER).append(1)
    await asyncio.sleep(0.1)
    assert heard == []
