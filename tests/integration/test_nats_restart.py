"""The NATS server is killed with -9 and started again in the middle of everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from events import subjects
from events.codec import decode_command
from events.envelope import CommandEnvelope, Envelope, Outcome, Recorded
from events.environment import InterruptCall
from events.errors import CairnError, Transient
from events.run import AgentReminded
from infra.consumer import Consumer
from infra.jetstream.connection import JetStream
from infra.jetstream.streams import StreamUnfit, stream_configs
from infra.ports import OutputChunk
from infra.settings import Nats, Settings
from tests.nats_server import NatsServer, free_port
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def jetstream(server: NatsServer) -> AsyncIterator[JetStream]:
    stream = await JetStream.connect(Settings(nats=Nats(url=server.url)), "restart")
    await stream.ensure_streams()
    yield stream
    await stream.close()


def decision(id: str, entity_id: str) -> Envelope:
    events = (AgentReminded(text="on"),)
    return Envelope(id=id, tenant="default", entity="run", entity_id=entity_id, time=NOW, events=events)


async def restart(server: NatsServer, away_seconds: float) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(away_seconds)
    await asyncio.to_thread(server.start)


async def test_appends_and_follows_survive_kills(server: NatsServer, jetstream: JetStream) -> None:
    """Nothing acknowledged is lost, nothing is there twice, and a follower sees everything once, in order."""
    appended: dict[int, str] = {}
    seen: list[Recorded] = []
    following = await jetstream.log.follow(seen.append, after=0)
    stop = asyncio.Event()

    async def write(entity_id: str) -> None:
        revision = number = 0
        while not stop.is_set():
            number += 1
            id = f"{entity_id}-{number}"
            revision = await jetstream.log.append(decision(id, entity_id), expected=revision)
            appended[revision] = id

    writers = [asyncio.create_task(write(f"r{number}")) for number in range(8)]

    async def go_through_a_restart() -> None:
        await asyncio.sleep(0.5)
        before = len(appended)
        await restart(server, 0.3)
        await until(lambda: len(appended) > before + 100, 30)

    for _ in range(3):
        await go_through_a_restart()
    stop.set()
    await asyncio.gather(*writers)
    last = await jetstream.log.last_sequence()
    await until(lambda: seen and seen[-1].sequence >= last)
    stored = [record async for batch in jetstream.log.replay() for record in batch]
    assert appended == {record.sequence: record.envelope.id for record in stored}
    assert len(set(appended.values())) == len(appended)
    assert [record.sequence for record in seen] == [record.sequence for record in stored]
    await following.close()


async def test_ten_seconds_away_are_waited_out(server: NatsServer, jetstream: JetStream) -> None:
    """Every kind of operation that begins meanwhile ends well; commands, output and followers go on."""
    handled: list[str] = []
    chunks: list[OutputChunk] = []

    async def handle(envelope: CommandEnvelope) -> Outcome:
        handled.append(envelope.id)
        return Outcome(accepted=True, entity=envelope.entity, entity_id=envelope.entity_id)

    worker = Consumer(
        jetstream.source,
        jetstream.commands,
        jetstream.dead_letters,
        service=subjects.SCHEDULER,
        durable="scheduler",
        stream=subjects.COMMANDS,
        filters=["cmd.default.scheduler.any.>"],
        handler=handle,
        concurrency=4,
        lease_seconds=5,
    )
    await worker.start()
    following = await jetstream.output.follow("r1", chunks.append)
    digest = await jetstream.content.put(b"kept")
    returned = 0
    connection_back = 0

    def back() -> None:
        nonlocal connection_back
        connection_back += 1

    jetstream.on_reconnect(back)
    await asyncio.to_thread(server.kill)
    await until(lambda: not jetstream.connected)

    async def work() -> None:
        nonlocal returned
        command = CommandEnvelope(
            id="c1",
            tenant="default",
            entity="task",
            entity_id="t1",
            time=NOW,
            command=InterruptCall(call_id="c", reason="r"),
        )
        revision = await jetstream.log.append(decision("d1", "r1"), expected=0)
        assert len(await jetstream.log.load("run", "r1")) == 1
        await jetstream.output.write("r1", "c1", 0, b"out")
        assert await jetstream.content.get(digest) == b"kept"
        assert await jetstream.commands.send(subjects.SCHEDULER, "any", command)
        assert revision > 0
        returned += 1

    working = asyncio.create_task(work())
    await asyncio.sleep(9)
    assert not working.done()
    await asyncio.to_thread(server.start)
    await asyncio.wait_for(working, 15)
    await until(lambda: handled == ["c1"] and [chunk.data for chunk in chunks] == [b"out"])
    await until(lambda: connection_back == 1)
    assert returned == 1
    await worker.stop(1)
    await following.close()


async def test_a_server_that_stays_away_is_transient(server: NatsServer, jetstream: JetStream) -> None:
    """After a bounded time, with words that say so."""
    await asyncio.to_thread(server.kill)
    async with asyncio.timeout(15):
        with pytest.raises(Transient, match="no connection"):
            await jetstream.log.append(decision("d1", "r1"), expected=0)
    await asyncio.to_thread(server.start)


async def test_casts_wait_for_the_connection(server: NatsServer, jetstream: JetStream) -> None:
    """What is cast while the server is away is sent when it is back."""
    taken: list[str] = []
    following = await jetstream.source.subscribe(
        "calls",
        subjects.CALLS,
        ["cmd.default.environment-manager.here.call.*"],
        lambda delivered: taken.append(decode_command(delivered.data).id),
        lease_seconds=60,
        capacity=lambda: 10,
    )
    await asyncio.to_thread(server.kill)
    await until(lambda: not jetstream.connected)
    command = InterruptCall(call_id="c", reason="r")
    envelope = CommandEnvelope(id="c1", tenant="default", entity="call", entity_id="e", time=NOW, command=command)
    jetstream.commands.cast(subjects.ENVIRONMENT_MANAGER, "here", envelope)
    await asyncio.to_thread(server.start)
    await until(lambda: taken == ["c1"])
    await following.close()


async def test_no_server_is_told_in_time() -> None:
    """A connection that cannot be made names the address."""
    port = free_port()
    settings = Settings(nats=Nats(url=f"nats://127.0.0.1:{port}"))
    with pytest.raises(Transient, match=f"127.0.0.1:{port} cannot be reached within 0.5 s"):
        await JetStream.connect(settings, "nobody", timeout_seconds=0.5)


async def test_a_wrong_password_is_told(tmp_path: Path) -> None:
    """An authorization failure is not waited out, and the password is not shown."""
    server = NatsServer(tmp_path / "nats", settings='authorization { user: "a", password: "right" }')
    server.start()
    try:
        settings = Settings(nats=Nats(url=server.url.replace("//", "//a:wrong@")))
        async with asyncio.timeout(5):
            with pytest.raises(CairnError, match="turned us away") as caught:
                await JetStream.connect(settings, "stranger", timeout_seconds=30)
        assert "wrong" not in str(caught.value)
    finally:
        server.stop()


async def test_missing_permission_fails_fast(tmp_path: Path) -> None:
    """Not only after the patience that a lost connection deserves."""
    server = NatsServer(
        tmp_path / "nats",
        settings='authorization { users: [{ user: a, password: b, permissions: { publish: "$JS.>" } }] }',
    )
    server.start()
    try:
        stream = await JetStream.connect(Settings(nats=Nats(url=server.url.replace("//", "//a:b@"))), "poor")
        await stream.ensure_streams()
        async with asyncio.timeout(3):
            with pytest.raises(CairnError, match=r"may not publish to evt\.default\.run\.r1"):
                await stream.log.append(decision("d1", "r1"), expected=0)
        await stream.close()
    finally:
        server.stop()


async def test_streams_are_verified_where_an_operator_makes_them(server: NatsServer) -> None:
    """The message names the stream, and the setting that is wrong."""
    managed = await JetStream.connect(Settings(nats=Nats(url=server.url)), "managed")
    verified = await JetStream.connect(Settings(nats=Nats(url=server.url, manage_streams=False)), "verified")
    with pytest.raises(StreamUnfit, match="EVENTS_default does not exist"):
        await verified.ensure_streams()
    await managed.ensure_streams()
    await managed.ensure_streams()
    await verified.ensure_streams()
    config = next(item for item in stream_configs("default", 1) if item["name"] == "RUNS")
    await managed._requests.api("STREAM.UPDATE.RUNS", config | {"discard_new_per_subject": False})
    with pytest.raises(StreamUnfit, match="RUNS has discard_new_per_subject = False; Cairn needs True"):
        await verified.ensure_streams()
    await managed.ensure_streams()
    await verified.ensure_streams()
    await managed.close()
    await verified.close()


async def test_a_payload_beyond_the_servers_limit_is_refused_for_good(jetstream: JetStream) -> None:
    """The connection survives it."""
    with pytest.raises(CairnError, match="max_payload"):
        await jetstream.output.write("r1", "c1", 0, b"x" * 2_000_000)
    await jetstream.output.write("r1", "c1", 0, b"x")
    assert jetstream.connected
