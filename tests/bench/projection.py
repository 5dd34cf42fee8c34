"""The projector, with PostgreSQL written, against a bare replay of the same log that only decodes.

Three ways in: a rebuild of everything, catching up on a backlog, and following. Rebuild
and catching up run in this process beside the bare replay, so that CPU seconds can be compared too (those of
PostgreSQL and NATS are not in them). Following is a projector of its own process; how far it is behind is the time
from an append's acknowledgement to PostgreSQL's notification of the commit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import uvloop

from events import subjects
from infra.embedded.postgres_server import PostgresServer
from infra.jetstream.connection import JetStream
from infra.postgres import connection
from infra.settings import Settings
from projections import schema
from projections.rebuild import BATCH, catch_up, rebuild
from projections.store import Store
from tests.bench import agent_steps, worker
from tests.bench.table import Row, percentile

if TYPE_CHECKING:
    from infra.postgres import Connection

RUNS = 680
# Rounds of each; the fastest counts, so that what else the machine does disturbs least.
ROUNDS = 5
FOLLOWED_PER_SECOND = 1000.0
FOLLOWED_SECONDS = 8.0
PATIENCE_SECONDS = 60.0


class Taken(NamedTuple):
    seconds: float
    cpu_seconds: float


async def _timed(work: Callable[[], Awaitable[Any]]) -> Taken:
    began, cpu = time.perf_counter(), time.process_time()
    await work()
    return Taken(time.perf_counter() - began, time.process_time() - cpu)


class Bench:
    def __init__(self, jetstream: JetStream, opened: Connection) -> None:
        self.log = jetstream.log
        self.connection = opened
        self.schema = schema.schema_name(jetstream.log.tenant)

    async def replay(self) -> None:
        async for _ in self.log.replay():
            pass

    async def rebuild(self) -> None:
        await rebuild(self.connection, self.log, "bench")

    async def catch_up(self) -> None:
        await catch_up(Store(self.connection, self.schema, 0), self.log, BATCH)

    async def emptied(self) -> None:
        """Tables with nothing in them."""
        await schema.create(self.connection, self.schema, await self.log.created_at())


async def _measure(settings: Settings, postgres_url: str) -> list[Row]:
    jetstream = await JetStream.connect(settings, "bench")
    await jetstream.ensure_streams()
    await agent_steps.append(jetstream.log, range(RUNS))
    taken: dict[str, list[Taken]] = {"replay": [], "rebuild": [], "catch_up": []}
    async with connection(postgres_url) as opened:
        await opened.execute("SET synchronous_commit TO off")  # As the projector does.
        bench = Bench(jetstream, opened)
        await bench.replay()
        for _ in range(ROUNDS):
            taken["replay"].append(await _timed(bench.replay))
            taken["rebuild"].append(await _timed(bench.rebuild))
            await bench.emptied()
            taken["catch_up"].append(await _timed(bench.catch_up))
    await jetstream.close()
    best = {name: Taken(*map(min, zip(*rounds, strict=True))) for name, rounds in taken.items()}
    events = RUNS * agent_steps.STEPS * agent_steps.EVENTS_PER_STEP
    return [
        _row(f"rebuild of {events:,} events", best["rebuild"], best["replay"], events),
        _row(f"catching up on {events:,} events", best["catch_up"], best["replay"], events),
    ]


def _row(what: str, taken: Taken, replay: Taken, events: int) -> Row:
    return Row(
        what=what,
        sync="default",
        value=f"{events / taken.seconds:,.0f} events/s, {taken.cpu_seconds / events * 1e6:.1f} µs CPU an event",
        ratio=f"{replay.seconds / taken.seconds:.2f}",
        floor=f"{events / replay.seconds:,.0f} events/s replayed and decoded, "
        f"{replay.cpu_seconds / events * 1e6:.1f} µs CPU an event",
        target="≥ 0.5",
    )


async def _follow(settings: Settings, postgres_url: str) -> Row:
    jetstream = await JetStream.connect(settings, "bench")
    loop = asyncio.get_running_loop()
    seen: list[tuple[int, float]] = []
    arrived = asyncio.Event()

    def notified(opened: Any, pid: int, channel: str, payload: object) -> None:
        seen.append((int(str(payload)), loop.time()))
        arrived.set()

    async with connection(postgres_url) as opened:
        await opened.add_listener(schema.schema_name(jetstream.log.tenant), notified)
        appended = await agent_steps.append_paced(
            jetstream.log, RUNS, per_second=FOLLOWED_PER_SECOND, seconds=FOLLOWED_SECONDS
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (seen and seen[-1][0] >= max(appended)):
                await arrived.wait()
                arrived.clear()
    await jetstream.close()
    delays = []
    notifications = iter(seen)
    reached, at = next(notifications)
    for sequence, acknowledged in sorted(appended.items()):
        while reached < sequence:
            reached, at = next(notifications)
        delays.append(max(at - acknowledged, 0.0))
    took = max(appended.values()) - min(appended.values())
    rate = len(appended) / took * agent_steps.EVENTS_PER_STEP / agent_steps.DECISIONS_PER_STEP
    return Row(
        what=f"following, {FOLLOWED_SECONDS:.0f} s",
        sync="default",
        value=f"{rate:,.0f} events/s, behind by p50 {percentile(delays, 0.5) * 1000:.1f} ms, "
        f"p99 {percentile(delays, 0.99) * 1000:.1f} ms",
    )


def run() -> list[Row]:
    with worker.directory() as home, worker.nats_server(home, sync_always=False) as settings:
        # Its home is elsewhere: PostgreSQL may run as another user, who must reach its files.
        postgres = PostgresServer(home / "postgres")
        with postgres.start():
            rows = uvloop.run(_measure(settings, postgres.url))
            environment = {"CAIRN_POSTGRES__URL": postgres.url}
            with worker.services(settings, (subjects.PROJECTOR,), environment):
                rows.append(uvloop.run(_follow(settings, postgres.url)))
            return rows
