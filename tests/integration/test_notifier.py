"""The notifier over an in-memory log with a clock moved by hand, and a real receiver of webhooks."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from events.delivery import DELIVERY, Delivery, DeliveryAbandoned, DeliveryPlanned, DeliverySucceeded
from events.envelope import Envelope, Recorded
from events.errors import Permanent, Transient
from events.kernel import Event
from events.task import StageApproved, TaskCompleted
from infra.clock import ManualClock
from infra.memory.event_log import MemoryEventLog
from infra.settings import Webhook
from services.notifier.adapters.position import PositionFile
from services.notifier.adapters.webhook import WebhookSender
from services.notifier.notifier import Notifier
from tests.nats_server import free_port
from tests.webhook_receiver import KEY, SECRET, Answer, webhook_receiver

OTHER_KEY = bytes(range(100, 140))
SECRETS = {
    "env:ONE": SECRET,
    "env:BOTH": f"{SECRET} whsec_{base64.b64encode(OTHER_KEY).decode()}",
}


def resolve(reference: str) -> str:
    if reference not in SECRETS:
        message = f"the secret {reference} is not set"
        raise Permanent(message)
    return SECRETS[reference]


def hook(url: str, *, secret: str = "env:ONE", allowed: bool = True) -> Webhook:
    return Webhook(url=url, secret=secret, allow_private_addresses=allowed)


class World:
    """A log, a clock and a place for the position, over which notifiers come and go."""

    def __init__(self, home: Path) -> None:
        self.clock = ManualClock()
        self.log = MemoryEventLog("default", self.clock)
        self.position = home / "notifier" / "position"
        self._tasks = 0

    async def happen(self, *events: Event) -> None:
        """A decision of a new task."""
        self._tasks += 1
        id = f"shop-{self._tasks}"
        envelope = Envelope(
            id=f"decision-{id}",
            tenant="default",
            entity="task",
            entity_id=id,
            time=self.clock.now(),
            events=events,
            trace="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        )
        await self.log.append(envelope, expected=0)

    @asynccontextmanager
    async def notifier(self, webhooks: Mapping[str, Webhook], *, time_limit_seconds: float = 5) -> AsyncIterator[None]:
        sender = WebhookSender("default", webhooks, resolve, self.clock, time_limit_seconds=time_limit_seconds)
        notifier = Notifier(self.log, self.clock, webhooks, sender, PositionFile(self.position), lambda task: task)
        await notifier.start()
        try:
            yield
        finally:
            await notifier.stop()
            await sender.close()

    async def records(self) -> list[Recorded]:
        return [record async for batch in self.log.replay(entities=(DELIVERY.name,)) for record in batch]

    async def deliveries(self, channel: str = "webhook") -> list[Delivery]:
        events: dict[str, list[Event]] = {}
        for record in await self.records():
            events.setdefault(record.envelope.entity_id, []).extend(record.envelope.events)
        folded = [DELIVERY.fold(id, happened) for id, happened in events.items()]
        return [item for item in folded if item.planned is not None and item.planned.channel == channel]

    async def until(self, holds: Callable[[list[Delivery]], bool], channel: str = "webhook") -> list[Delivery]:
        """The deliveries through a channel, when they are as they should be."""
        changed = asyncio.Event()
        following = await self.log.follow(lambda record: changed.set(), after=0, entities=(DELIVERY.name,))
        try:
            async with asyncio.timeout(10):
                while not holds(found := await self.deliveries(channel)):
                    await changed.wait()
                    changed.clear()
            return found
        finally:
            await following.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def attempted(count: int) -> Callable[[list[Delivery]], bool]:
    return lambda found: bool(found) and found[0].attempts == count


def ended(count: int = 1) -> Callable[[list[Delivery]], bool]:
    return lambda found: len([item for item in found if item.ended]) == count


def due_in(world: World, delivery: Delivery) -> float:
    assert delivery.retry_at is not None
    return (delivery.retry_at - world.clock.now()).total_seconds()


async def test_a_webhook_is_signed_and_tried_again(world: World) -> None:
    """After a 500 the same message goes out again when it is due, with the same id, and is delivered once."""
    with webhook_receiver(Answer(500, body="out of\norder")) as receiver:
        async with world.notifier({"ci": hook(receiver.url)}):
            await world.happen(TaskCompleted(summary="done"))
            (refused,) = await world.until(attempted(1))
            assert 5 <= due_in(world, refused) <= 5.5
            world.clock.advance(4.9)
            await asyncio.sleep(0.1)
            assert len(receiver.received) == 1
            world.clock.advance(1)
            (delivery,) = await world.until(ended())
    first, second = receiver.received
    assert delivery.ended == DeliverySucceeded(attempt=2)
    assert first.id == second.id == delivery.id
    assert (first.raw, first.host) == (second.raw, receiver.url.split("/")[2])
    assert first.timestamp < second.timestamp
    assert all(message.is_signed_by(KEY) for message in receiver.received)
    assert (first.body["type"], first.body["data"]["id"], first.body["data"]["body"]) == (
        "TaskCompleted",
        "shop-1",
        "done",
    )


async def test_decisions_about_a_delivery_keep_the_trace(world: World) -> None:
    """What is told of a task belongs to that task's trace and chain."""
    with webhook_receiver() as receiver:
        async with world.notifier({"ci": hook(receiver.url)}):
            await world.happen(TaskCompleted())
            await world.until(ended())
    for record in await world.records():
        assert record.envelope.trace[3:35] == "a" * 32
        assert record.envelope.correlation == "decision-shop-1"


async def test_two_keys_sign_while_one_replaces_the_other(world: World) -> None:
    """A secret with two keys gives a signature by each."""
    with webhook_receiver() as receiver:
        async with world.notifier({"ci": hook(receiver.url, secret="env:BOTH")}):
            await world.happen(TaskCompleted())
            await world.until(ended())
    (message,) = receiver.received
    assert message.is_signed_by(KEY)
    assert message.is_signed_by(OTHER_KEY)


async def test_gone_is_the_end(world: World) -> None:
    """After a 410 there is no further attempt."""
    with webhook_receiver(Answer(410)) as receiver:
        async with world.notifier({"ci": hook(receiver.url)}):
            await world.happen(TaskCompleted())
            (delivery,) = await world.until(ended())
    assert isinstance(delivery.ended, DeliveryAbandoned)
    assert "410 Gone" in delivery.ended.detail


async def test_a_redirect_is_not_followed(world: World) -> None:
    """Where a receiver sends us elsewhere we do not go, and try again later."""
    with webhook_receiver() as elsewhere, webhook_receiver(Answer(307, {"Location": elsewhere.url})) as receiver:
        async with world.notifier({"ci": hook(receiver.url)}):
            await world.happen(TaskCompleted())
            await world.until(attempted(1))
    assert elsewhere.received == []


@pytest.mark.parametrize("moment", ["7200", "Thu, 01 Jan 2026 02:00:00 GMT"])
async def test_retry_after_is_respected(world: World, moment: str) -> None:
    """A receiver that asks for time, in seconds or by date, gets it."""
    with webhook_receiver(Answer(429, {"Retry-After": moment})) as receiver:
        async with world.notifier({"ci": hook(receiver.url)}):
            await world.happen(TaskCompleted())
            (delivery,) = await world.until(attempted(1))
    assert due_in(world, delivery) == pytest.approx(7200, abs=1)


async def test_a_webhook_that_is_down_delays_only_itself(world: World) -> None:
    """One that does not answer in time is given up for now; another one and the app hear at once."""
    with webhook_receiver(Answer(200, delay_seconds=5)) as slow, webhook_receiver() as quick:
        nobody = hook(f"http://localhost:{free_port()}")
        hooks = {"slow": hook(slow.url), "quick": hook(quick.url), "nobody": nobody}
        async with world.notifier(hooks, time_limit_seconds=3):
            await world.happen(TaskCompleted())
            (quick_one, *_) = [item for item in await world.until(ended()) if item.ended]
            assert quick_one.planned is not None
            assert quick_one.planned.receiver == "quick"
            assert [item.status for item in await world.deliveries("in_app")] == ["delivered"]
            found = await world.until(lambda found: all(item.attempts == 1 for item in found))
    assert sorted(item.status for item in found) == ["delivered", "pending", "pending"]


@pytest.mark.parametrize(
    ("secret", "allowed", "detail"),
    [("env:ONE", False, "no public address"), ("env:MISSING", True, "the secret env:MISSING is not set")],
)
async def test_what_must_not_or_cannot_be_sent_is_not(world: World, secret: str, allowed: bool, detail: str) -> None:
    """An address inside our network, or a secret that is missing, is a refusal that says so; nothing is sent."""
    with webhook_receiver() as receiver:
        async with world.notifier({"ci": hook(receiver.url, secret=secret, allowed=allowed)}):
            await world.happen(TaskCompleted())
            await world.until(attempted(1))
    assert receiver.received == []
    (_, refusal) = [r.envelope.events[0] for r in await world.records() if "in_app" not in str(r.envelope.events)]
    assert detail in str(refusal)


async def test_a_webhook_that_was_removed_is_abandoned(world: World) -> None:
    """What was planned for a webhook that the settings do not have any more ends, with the reason."""
    with webhook_receiver(Answer(500)) as receiver:
        async with world.notifier({"ci": hook(receiver.url)}):
            await world.happen(TaskCompleted())
            await world.until(attempted(1))
    world.clock.advance(6)
    async with world.notifier({}):
        (delivery,) = await world.until(ended())
    assert isinstance(delivery.ended, DeliveryAbandoned)
    assert "no webhook ci any more" in delivery.ended.detail


@pytest.mark.parametrize("position", ["kept", "lost"])
async def test_a_restart_in_the_middle_delivers_once(world: World, position: str) -> None:
    """Between two attempts the notifier is replaced: the same id, due at the same time, one success."""
    with webhook_receiver(Answer(500)) as receiver:
        hooks = {"ci": hook(receiver.url)}
        async with world.notifier(hooks):
            await world.happen(TaskCompleted())
            await world.until(attempted(1))
        world.clock.advance(4)
        if position == "lost":
            world.position.unlink()
        async with world.notifier(hooks):
            await asyncio.sleep(0.1)
            assert len(receiver.received) == 1, "not yet due"
            world.clock.advance(2)
            await world.until(ended())
    assert len(receiver.ids) == 2
    assert len(set(receiver.ids)) == 1
    events = [event for record in await world.records() for event in record.envelope.events]
    webhook_successes = [event for event in events if event == DeliverySucceeded(attempt=2)]
    assert len(webhook_successes) == 1


@pytest.mark.parametrize("position", ["kept", "lost", "junk", "of another log"])
async def test_what_happened_meanwhile_is_told(world: World, position: str) -> None:
    """Events that came while no notifier ran are told by the next, once, whatever became of the position file."""
    async with world.notifier({}):
        await world.happen(TaskCompleted())
        await world.happen(StageApproved(stage="x"))
        await world.until(ended(1), "in_app")
    await world.happen(TaskCompleted(), TaskCompleted())
    if position == "lost":
        world.position.unlink()
    elif position == "junk":
        world.position.write_bytes(b"\xff{")
    elif position == "of another log":
        PositionFile(world.position).write(world.clock.now() + timedelta(days=1), 3)
    for _ in range(2):
        async with world.notifier({}):
            await world.until(ended(3), "in_app")
    assert len(await world.deliveries("in_app")) == 3
    assert len([r for r in await world.records() if isinstance(r.envelope.events[0], DeliveryPlanned)]) == 3


async def test_old_news_are_not_told(world: World) -> None:
    """The first notifier of a log begins at its end, and goes on from there even if it told nothing."""
    await world.happen(TaskCompleted())
    async with world.notifier({}):
        pass
    await world.happen(TaskCompleted())
    async with world.notifier({}):
        await world.until(ended(1), "in_app")
    (delivery,) = await world.deliveries("in_app")
    assert delivery.planned is not None
    assert delivery.planned.subject_id == "shop-2"


class FlinchingLog(MemoryEventLog):
    """Appends, and then says that it could not: for every decision the first time."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__("default", clock)
        self._flinched: set[str] = set()

    async def append(self, envelope: Envelope, *, expected: int, of_kind: bool = False) -> int:
        sequence = await super().append(envelope, expected=expected, of_kind=of_kind)
        if envelope.entity == DELIVERY.name and envelope.id not in self._flinched:
            self._flinched.add(envelope.id)
            message = "the answer was lost"
            raise Transient(message, delay_seconds=0)
        return sequence


async def test_a_lost_answer_of_the_log_loses_no_delivery(world: World) -> None:
    """Every append is made but not confirmed: each delivery is still attempted, and recorded once."""
    world.log = FlinchingLog(world.clock)
    with webhook_receiver() as receiver:
        async with world.notifier({"ci": hook(receiver.url)}):
            await world.happen(TaskCompleted())
            await world.until(ended())
    assert len(receiver.received) == 1
    assert len(await world.records()) == 3
