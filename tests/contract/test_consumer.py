"""What the command consumer makes of every way in which a handler can end."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from events import subjects
from events.codec import encode
from events.envelope import CommandEnvelope, Outcome
from events.errors import NotFound, Permanent, RevisionConflict, Transient
from infra.consumer import Consumer
from infra.leases import LeaseFiles
from infra.ports import CommandHandler
from tests.contract.conftest import Plumbing
from tests.waiting import until

SERVICE = subjects.ENVIRONMENT_MANAGER
DONE = Outcome(accepted=True, entity="environment", entity_id="e1", sequence=4)


class Handler:
    """Counts its calls; the first ones raise what it was given, in order, the rest succeed."""

    def __init__(self, *raises: BaseException) -> None:
        self.calls: list[str] = []
        self._raises = list(raises)

    async def __call__(self, envelope: CommandEnvelope) -> Outcome | None:
        self.calls.append(envelope.id)
        if self._raises:
            raise self._raises.pop(0)
        return DONE


def consumer(plumbing: Plumbing, handler: CommandHandler, **options: Any) -> Consumer:
    return Consumer(
        plumbing.source,
        plumbing.commands,
        plumbing.dead_letters,
        service=SERVICE,
        durable=f"{plumbing.tenant}-taker",
        stream=subjects.COMMANDS,
        filters=plumbing.filters,
        handler=handler,
        **{"concurrency": 8, "lease_seconds": 3.0} | options,
    )


async def test_success_is_answered(plumbing: Plumbing) -> None:
    """Whoever asked gets the outcome, and whoever counts hears of it."""
    heard: list[tuple[str, str]] = []
    worker = consumer(plumbing, Handler(), on_handled=lambda name, seconds, result: heard.append((name, result)))
    await worker.start()
    assert await plumbing.commands.ask(SERVICE, "here", plumbing.command("c1"), timeout_seconds=5) == DONE
    await until(lambda: heard)
    assert heard == [("InterruptCall", "handled")]
    await worker.stop(1)


async def test_what_was_settled_does_not_come_again(plumbing: Plumbing) -> None:
    """Whether it was rejected, refused for good or done."""
    handler = Handler(NotFound("there is no e1"), Permanent("no such repository", slug="repository-not-found"))
    worker = consumer(plumbing, handler, lease_seconds=2.0)
    await worker.start()
    await plumbing.send("c1", "c2", "c3")
    await until(lambda: len(handler.calls) == 3)
    await asyncio.sleep(2.5)
    assert handler.calls == ["c1", "c2", "c3"]
    await worker.stop(1)


async def test_a_rejection_is_answered_where_somebody_waits(plumbing: Plumbing) -> None:
    """With its slug, message and status, and without a dead letter."""
    handler = Handler(NotFound("there is no e1"))
    worker = consumer(plumbing, handler)
    await worker.start()
    outcome = await plumbing.commands.ask(SERVICE, "here", plumbing.command("c1"), timeout_seconds=5)
    assert outcome == Outcome(
        accepted=False, entity="environment", entity_id="e1", slug="not-found", message="there is no e1", status=404
    )
    await worker.stop(1)
    assert await plumbing.dead_letters.list() == []
    assert handler.calls == ["c1"]


async def test_a_rejection_nobody_waits_for_is_a_dead_letter(plumbing: Plumbing) -> None:
    """Nothing is lost in silence."""
    handler = Handler(NotFound("there is no e1"))
    worker = consumer(plumbing, handler)
    await worker.start()
    await plumbing.send("c1")
    (letter,) = await plumbing.letters(1)
    await worker.stop(1)
    assert (
        letter.reason,
        letter.detail,
        letter.service,
        letter.deliveries,
    ) == ("not-found", "there is no e1", SERVICE, 1)
    assert handler.calls == ["c1"]


async def test_transient_trouble_is_tried_again_for_ever(plumbing: Plumbing) -> None:
    """More often than the failures that are allowed, and never a dead letter."""
    handler = Handler(*(Transient("not yet", delay_seconds=0.02) for _ in range(8)))
    worker = consumer(plumbing, handler, max_deliveries=3)
    await worker.start()
    await plumbing.send("c1")
    await until(lambda: len(handler.calls) == 9)
    await worker.stop(1)
    assert await plumbing.dead_letters.list() == []


async def test_a_lost_race_is_tried_again(plumbing: Plumbing) -> None:
    """Soon, and with success."""
    handler = Handler(RevisionConflict("somebody was faster"))
    worker = consumer(plumbing, handler, lease_seconds=30)
    await worker.start()
    await plumbing.send("c1")
    await until(lambda: len(handler.calls) == 2)
    await worker.stop(1)
    assert await plumbing.dead_letters.list() == []


async def test_what_was_refused_for_good_is_a_dead_letter(plumbing: Plumbing) -> None:
    """At once."""
    handler = Handler(Permanent("no such repository", slug="repository-not-found"))
    worker = consumer(plumbing, handler)
    await worker.start()
    await plumbing.send("c1")
    (letter,) = await plumbing.letters(1)
    await worker.stop(1)
    assert (letter.reason, letter.detail) == ("repository-not-found", "no such repository")
    assert encode(plumbing.command("c1")) == letter.data
    assert handler.calls == ["c1"]


@pytest.mark.parametrize("failure", [ZeroDivisionError("by zero"), RevisionConflict("again"), asyncio.CancelledError()])
async def test_a_command_that_keeps_failing_ends_as_a_dead_letter(plumbing: Plumbing, failure: BaseException) -> None:
    """After as many failures as are allowed, the others being served meanwhile."""
    handler = Handler(failure, failure, failure)
    worker = consumer(plumbing, handler, max_deliveries=3)
    await worker.start()
    await plumbing.send("c1")
    await until(lambda: len(handler.calls) == 3)
    await plumbing.send("c2", entity_id="e2")
    await until(lambda: len(handler.calls) == 4)
    await worker.stop(1)
    (letter,) = await plumbing.letters(1)
    assert letter.reason == ("conflicted" if isinstance(failure, RevisionConflict) else "failed")
    assert letter.detail == f"{type(failure).__name__}: {failure}"
    assert letter.deliveries == 3


async def test_junk_is_a_dead_letter(plumbing: Plumbing) -> None:
    """Bytes that are no command reach no handler."""
    handler = Handler()
    worker = consumer(plumbing, handler)
    await worker.start()
    subject = f"cmd.{plumbing.tenant}.{SERVICE}.here.environment.e1"
    await plumbing.publish(subject, b"\xff no command")
    await plumbing.send("c1")
    await until(lambda: handler.calls and not worker.in_flight)
    await worker.stop(1)
    (letter,) = await plumbing.letters(1)
    assert ("undecodable", subject, b"\xff no command") == (letter.reason, letter.subject, letter.data)


async def test_one_entity_in_order_others_side_by_side(plumbing: Plumbing) -> None:
    """Commands of one entity never overlap; those of others do not wait for them."""
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    order: list[str] = []

    async def handle(envelope: CommandEnvelope) -> None:
        running["all"] += 1
        running[envelope.entity_id] += 1
        for key in ("all", envelope.entity_id):
            most[key] = max(most[key], running[key])
        await asyncio.sleep(0.05)
        running["all"] -= 1
        running[envelope.entity_id] -= 1
        order.append(envelope.id)

    worker = consumer(plumbing, handle, concurrency=4)
    await worker.start()
    await asyncio.gather(
        plumbing.send("a1", "a2", "a3", entity_id="a"),
        plumbing.send("b1", "b2", entity_id="b"),
        plumbing.send("c1", entity_id="c"),
        plumbing.send("d1", entity_id="d"),
    )
    await until(lambda: len(order) == 7)
    await worker.stop(1)
    assert (most["a"], most["b"]) == (1, 1)
    assert 2 <= most["all"] <= 4
    assert [id for id in order if id.startswith("a")] == ["a1", "a2", "a3"]
    assert [id for id in order if id.startswith("b")] == ["b1", "b2"]


async def test_long_work_keeps_its_lease(plumbing: Plumbing) -> None:
    """Also that of the commands that wait behind it."""
    calls: list[str] = []

    async def handle(envelope: CommandEnvelope) -> None:
        calls.append(envelope.id)
        if envelope.id == "c1":
            await asyncio.sleep(2.5)

    worker = consumer(plumbing, handle, lease_seconds=2.0)
    await worker.start()
    await plumbing.send("c1", "c2")
    await until(lambda: len(calls) == 2 and not worker.in_flight)
    await worker.stop(1)
    assert calls == ["c1", "c2"]


async def test_stop_gives_back_what_is_not_done(plumbing: Plumbing) -> None:
    """What runs and what waits is with the next process long before the leases are over."""
    begun: list[str] = []

    async def hang(envelope: CommandEnvelope) -> None:
        begun.append(envelope.id)
        await asyncio.Event().wait()

    first = consumer(plumbing, hang, lease_seconds=60)
    await first.start()
    await plumbing.send("a1", "a2", entity_id="a")
    await plumbing.send("b1", entity_id="b")
    await until(lambda: len(begun) == 2 and first.in_flight == 3)
    await first.stop(0.1)
    handler = Handler()
    second = consumer(plumbing, handler, lease_seconds=60)
    await second.start()
    await until(lambda: len(handler.calls) == 3)
    assert sorted(handler.calls) == ["a1", "a2", "b1"]
    await second.stop(1)


async def test_stop_lets_what_runs_end_within_its_grace(plumbing: Plumbing) -> None:
    """What ends in time is acknowledged."""
    begun: list[str] = []

    async def handle(envelope: CommandEnvelope) -> None:
        begun.append(envelope.id)
        await asyncio.sleep(0.3)

    first = consumer(plumbing, handle, lease_seconds=2.0)
    await first.start()
    await plumbing.send("c1")
    await until(lambda: begun)
    await first.stop(5)
    second = consumer(plumbing, handle, lease_seconds=2.0)
    await second.start()
    await asyncio.sleep(2.5)
    assert begun == ["c1"]
    await second.stop(1)


async def test_the_handler_is_called_within_what_is_around_it(plumbing: Plumbing) -> None:
    """The place for a span."""
    seen: list[str] = []

    @contextlib.contextmanager
    def around(envelope: CommandEnvelope) -> Iterator[None]:
        seen.append(f"enter {envelope.id}")
        yield
        seen.append("leave")

    async def handle(envelope: CommandEnvelope) -> None:
        seen.append("handle")

    worker = consumer(plumbing, handle, around=around)
    await worker.start()
    await plumbing.send("c1")
    await until(lambda: len(seen) == 3)
    assert seen == ["enter c1", "handle", "leave"]
    await worker.stop(1)


def _hold(directory: Path, tokens: tuple[str, ...], ready: Any) -> None:
    """A process that takes leases and dies without a word."""
    leases = LeaseFiles(directory, 30.0)
    leases.open()
    for token in tokens:
        leases.keep(token)
    ready.set()
    signal.pause()


def dead_holder(directory: Path, *tokens: str) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(directory, tokens, ready))
    process.start()
    assert ready.wait(20)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()


async def test_a_successor_takes_over_the_leases_of_the_dead(plumbing: Plumbing, tmp_path: Path) -> None:
    """At its start, at once; not those of the living, and its own files end with its commands."""
    tokens: list[str] = []
    holder = await plumbing.take(lambda delivered: tokens.append(delivered.token), lease_seconds=30)
    await plumbing.send("c1")
    await until(lambda: tokens)
    await holder.close()
    await asyncio.to_thread(dead_holder, tmp_path, tokens[0])
    handler = Handler()
    worker = consumer(plumbing, handler, lease_seconds=30, leases=LeaseFiles(tmp_path, 30))
    await worker.start()
    await until(lambda: handler.calls == ["c1"])
    await until(lambda: not worker.in_flight)
    assert list(tmp_path.rglob("*.lease")) == []
    assert LeaseFiles(tmp_path, 30.0).open() == []
    await worker.stop(1)


def test_leases_of_the_living_and_lapsed_ones_are_left_alone(tmp_path: Path) -> None:
    """A predecessor that still runs keeps what it holds; a lapsed lease may be somebody else's by now."""
    living = LeaseFiles(tmp_path, 30.0)
    assert living.open() == []
    living.keep("held")
    assert LeaseFiles(tmp_path, 30.0).open() == []
    living.close()
    dead_holder(tmp_path, "fresh", "old")
    for file in tmp_path.rglob("*.lease"):
        if file.read_text() == "old":
            os.utime(file, (1, 1))
    assert LeaseFiles(tmp_path, 30.0).open() == ["fresh"]
    assert LeaseFiles(tmp_path, 30.0).open() == []
