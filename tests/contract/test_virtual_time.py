"""The in-memory plumbing waits on its clock only, so that a simulation owns time."""

from __future__ import annotations

import asyncio

from events.envelope import CommandEnvelope
from events.errors import Transient
from infra.clock import ManualClock
from infra.consumer import Consumer
from infra.memory import Memory
from infra.ports import Delivered
from tests.contract.conftest import Plumbing


async def settle() -> None:
    """Let everything run that needs no time."""
    for _ in range(20):
        await asyncio.sleep(0)


def plumbing_at(clock: ManualClock) -> tuple[Memory, Plumbing]:
    memory = Memory("t1", clock)

    async def publish(subject: str, data: bytes) -> None:
        memory.source.publish(subject, data)

    return memory, Plumbing("t1", memory, publish)


async def test_leases_lapse_by_the_clock() -> None:
    """Not a moment before, and extending counts from the moment of it."""
    clock = ManualClock()
    memory, plumbing = plumbing_at(clock)
    taken: list[Delivered] = []
    await plumbing.take(taken.append, lease_seconds=10)
    await plumbing.send("c1")
    await settle()
    clock.advance(9)
    await taken[0].extend()
    clock.advance(9)
    await settle()
    assert len(taken) == 1
    clock.advance(2)
    await settle()
    assert len(taken) == 2
    await memory.close()


async def test_a_consumer_waits_by_the_clock() -> None:
    """A postponed command comes when its delay is over on the clock; the lease of a running one is kept."""
    clock = ManualClock()
    memory, plumbing = plumbing_at(clock)
    calls: list[str] = []
    hold = asyncio.Event()

    async def handle(envelope: CommandEnvelope) -> None:
        calls.append(envelope.id)
        if calls == ["c1"]:
            raise Transient("later", delay_seconds=60)
        await hold.wait()

    worker = Consumer(
        memory.source,
        memory.commands,
        memory.dead_letters,
        service="environment-manager",
        durable="taker",
        stream="COMMANDS",
        filters=plumbing.filters,
        handler=handle,
        concurrency=1,
        lease_seconds=9,
        clock=clock,
    )
    await worker.start()
    await plumbing.send("c1")
    await settle()
    clock.advance(59)
    await settle()
    assert calls == ["c1"]
    for _ in range(20):
        clock.advance(2)
        await settle()
    assert calls == ["c1", "c1"]
    hold.set()
    await settle()
    assert worker.in_flight == 0
    await worker.stop(0)
    await memory.close()


async def test_ask_gives_up_by_the_clock() -> None:
    """Nobody answers, and the clock alone says when that is long enough."""
    clock = ManualClock()
    memory, plumbing = plumbing_at(clock)
    service = "environment-manager"
    asking = asyncio.ensure_future(memory.commands.ask(service, "here", plumbing.command("c1"), timeout_seconds=5))
    await settle()
    assert not asking.done()
    clock.advance(5)
    assert await asking is None
    await memory.close()
