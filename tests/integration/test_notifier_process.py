"""The notifier as a real process against a real nats-server, killed in the middle of a delivery."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from events.delivery import DELIVERY, DeliveryPlanned, DeliverySucceeded
from events.envelope import Envelope, Recorded
from events.kernel import Event
from events.task import TaskCompleted
from infra.jetstream.connection import JetStream
from infra.settings import Nats, Settings
from tests.otlp_receiver import otlp_receiver
from tests.service_process import ServiceProcess
from tests.webhook_receiver import KEY, SECRET, Answer, webhook_receiver

TRACE_ID = "a" * 32


@contextmanager
def notifier(home: Path, tenant: str, nats_url: str, **environment: str) -> Iterator[ServiceProcess]:
    command = ["-m", "services.notifier"]
    process = ServiceProcess(
        "notifier", command, home, nats_url, CAIRN_TENANT=tenant, HOOK_SECRET=SECRET, **environment
    )
    try:
        process.until_ready()
        yield process
    finally:
        process.close()


def write_settings(home: Path, url: str) -> None:
    lines = ("[webhooks.ci]", f'url = "{url}"', 'secret = "env:HOOK_SECRET"', "allow_private_addresses = true")
    (home / "cairn.toml").write_text("\n".join(lines))


@asynccontextmanager
async def jetstream(tenant: str, nats_url: str) -> AsyncIterator[JetStream]:
    connected = await JetStream.connect(Settings(tenant=tenant, nats=Nats(url=nats_url)), "test")
    try:
        await connected.ensure_streams()
        yield connected
    finally:
        await connected.close()


async def complete_a_task(stream: JetStream, tenant: str, id: str) -> None:
    envelope = Envelope(
        id=f"decision-{id}",
        tenant=tenant,
        entity="task",
        entity_id=id,
        time=datetime.now(UTC),
        events=(TaskCompleted(summary="done"),),
        trace=f"00-{TRACE_ID}-{'b' * 16}-01",
    )
    await stream.log.append(envelope, expected=0)


async def webhook_events(stream: JetStream, *, ended: int) -> dict[str, list[Event]]:
    """The events of each webhook delivery, when so many of them have ended."""
    happened: dict[str, list[Event]] = {}
    changed = asyncio.Event()

    def receive(record: Recorded) -> None:
        envelope = record.envelope
        happened.setdefault(envelope.entity_id, []).extend(envelope.events)
        changed.set()

    def hooks() -> dict[str, list[Event]]:
        first = ((id, events, events[0]) for id, events in happened.items())
        return {id: events for id, events, plan in first if isinstance(plan, DeliveryPlanned) and plan.receiver}

    following = await stream.log.follow(receive, after=0, entities=(DELIVERY.name,))
    try:
        async with asyncio.timeout(20):
            while sum(DELIVERY.fold(id, events).ended is not None for id, events in hooks().items()) < ended:
                await changed.wait()
                changed.clear()
        return hooks()
    finally:
        await following.close()


async def test_killed_while_the_receiver_thinks(nats_url: str, tmp_path: Path) -> None:
    """kill -9 between the request and its answer: the next process asks again with the same id; one success."""
    tenant = "notifier-killed"
    async with jetstream(tenant, nats_url) as stream:
        with webhook_receiver(Answer(200, delay_seconds=3)) as receiver:
            write_settings(tmp_path, receiver.url)
            with notifier(tmp_path, tenant, nats_url) as process:
                await complete_a_task(stream, tenant, "shop-1")
                await asyncio.to_thread(process.until, lambda: len(receiver.received) == 1)
                process.popen.kill()
                process.popen.wait()
            with notifier(tmp_path, tenant, nats_url) as process:
                ((id, events),) = (await webhook_events(stream, ended=1)).items()
                process.popen.send_signal(signal.SIGTERM)
                assert process.wait() == 0
    assert receiver.ids == [id, id]
    assert [type(event).__name__ for event in events] == ["DeliveryPlanned", "DeliverySucceeded"]
    assert events[1] == DeliverySucceeded(attempt=1)
    assert all(message.is_signed_by(KEY) for message in receiver.received)


async def test_a_stop_lets_an_attempt_end(nats_url: str, tmp_path: Path) -> None:
    """SIGTERM while a receiver takes its time: the answer is waited for and recorded, nothing is sent twice."""
    tenant = "notifier-stopped"
    async with jetstream(tenant, nats_url) as stream:
        with webhook_receiver(Answer(200, delay_seconds=0.5)) as receiver:
            write_settings(tmp_path, receiver.url)
            with notifier(tmp_path, tenant, nats_url) as process:
                await complete_a_task(stream, tenant, "shop-1")
                await asyncio.to_thread(process.until, lambda: len(receiver.received) == 1)
                process.popen.send_signal(signal.SIGTERM)
                assert process.wait() == 0
            await webhook_events(stream, ended=1)
    assert len(receiver.received) == 1


async def test_the_trace_goes_on_into_the_delivery(nats_url: str, tmp_path: Path) -> None:
    """With a receiver of traces, planning and delivering are spans of the trace that completed the task."""
    tenant = "notifier-traced"
    async with jetstream(tenant, nats_url) as stream:
        with webhook_receiver() as receiver, otlp_receiver() as traces:
            write_settings(tmp_path, receiver.url)
            with notifier(tmp_path, tenant, nats_url, CAIRN_TELEMETRY__OTLP_ENDPOINT=traces.url):
                await complete_a_task(stream, tenant, "shop-1")
                await asyncio.to_thread(traces.wait_for, lambda spans: "deliver" in {span.name for span in spans})
    (span,) = traces.named("deliver")
    assert (span.service, span.kind, span.trace_id, span.failed) == ("cairn-notifier", "client", TRACE_ID, False)


def test_a_webhook_that_cannot_work_is_refused_at_start(nats_url: str, tmp_path: Path) -> None:
    """A misspelt event in the settings ends the process with exit code 2 and a line that says what was meant."""
    (tmp_path / "cairn.toml").write_text(
        '[webhooks.ci]\nurl = "https://example.org"\nsecret = "env:X"\nevents = ["TaskComplete"]\n'
    )
    process = ServiceProcess("notifier", ["-m", "services.notifier"], tmp_path, nats_url, CAIRN_TENANT="notifier-bad")
    try:
        assert process.wait() == 2
        assert "Did you mean TaskCompleted?" in process.stderr
    finally:
        process.close()
