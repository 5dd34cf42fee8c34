"""The projector at work over a real PostgreSQL: read your writes, rebuilds, absences, company."""

from __future__ import annotations

import asyncio

import pytest

from events.errors import Transient
from infra.clock import SystemClock
from infra.memory.event_log import MemoryEventLog
from infra.postgres import connection, quoted
from projections import schema
from projections.projector import MOST_WAITING, Inbox
from tests.postgres_server import postgres_server
from tests.projections.conftest import projecting, publish, reading
from tests.projections.histories import history, records, submitted
from tests.waiting import until

pytestmark = pytest.mark.integration


async def test_read_your_writes(postgres_url: str, log: MemoryEventLog) -> None:
    """Whoever waits for a sequence finds what was decided up to it."""
    async with projecting(log, postgres_url), reading(log, postgres_url) as (models, progress):
        for number in range(1, 30):
            sequence = publish(log, records(("task", f"shop-{number}", submitted(number))))
            assert await progress.wait_for(sequence, 10)
            assert await models.task(f"shop-{number}") is not None


async def test_waiting_ends(postgres_url: str, log: MemoryEventLog) -> None:
    """Waiting for what never comes ends after its time."""
    async with projecting(log, postgres_url), reading(log, postgres_url) as (_, progress):
        assert not await progress.wait_for(5, 0.05)


async def test_goes_on_where_it_was(postgres_url: str, log: MemoryEventLog) -> None:
    """A projector that starts again adds what came in the meantime, without a rebuild."""
    publish(log, history(range(50)))
    async with reading(log, postgres_url) as (models, progress):
        async with projecting(log, postgres_url) as first:
            assert await progress.wait_for(50, 10)
            await until(lambda: first.met, seconds=15.0)
        publish(log, history(range(7, 57)))
        async with projecting(log, postgres_url) as second:
            assert await progress.wait_for(100, 10)
            await until(lambda: second.met, seconds=15.0)
        assert (await models.checkpoint()).sequence == 100
    assert first.reasons == ["rebuilding the read models (missing)", ""]
    assert second.reasons == [""]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE checkpoint SET version = version - 1", "version"),
        ("UPDATE checkpoint SET sequence = 1000", "ahead"),
        ("UPDATE checkpoint SET log_created_at = log_created_at - interval '1 day'", "other-log"),
        ("DROP TABLE checkpoint", "missing"),
    ],
)
async def test_rebuilds_what_does_not_fit(postgres_url: str, log: MemoryEventLog, change: str, reason: str) -> None:
    """Read models of another version, of another log, or ahead of the log are reported and rebuilt."""
    last = publish(log, history(range(50)))
    async with reading(log, postgres_url) as (models, progress):
        async with projecting(log, postgres_url):
            assert await progress.wait_for(last, 10)
        before = await models.tasks()
        async with connection(postgres_url, search_path=schema.schema_name(log.tenant)) as opened:
            await opened.execute("DELETE FROM tasks")
            await opened.execute(change)
        async with projecting(log, postgres_url) as readiness:
            await until(lambda: readiness.met, seconds=15.0)
        # The same pool, whose statements were prepared for the tables before, reads the new ones.
        assert await models.tasks() == before
        assert (await models.checkpoint()).sequence == last
        assert readiness.reasons[0] == f"rebuilding the read models ({reason})"


async def test_a_second_projector_stands_by(postgres_url: str, log: MemoryEventLog) -> None:
    """Of two projectors one works; the other takes over when it ends."""
    async with reading(log, postgres_url) as (_, progress):
        async with projecting(log, postgres_url) as first:
            await until(lambda: first.met, seconds=15.0)
            async with projecting(log, postgres_url) as second:
                assert await progress.wait_for(publish(log, history(range(20))), 10)
                await until(lambda: any("stands by" in reason for reason in second.reasons), seconds=15.0)
        async with projecting(log, postgres_url) as third:
            await until(lambda: third.met, seconds=15.0)
            assert await progress.wait_for(publish(log, history(range(20))), 10)


async def test_postgres_goes_away() -> None:
    """While PostgreSQL is away the projector says so and waits; back again, nothing is lost and nothing is double."""
    log = MemoryEventLog("acme", SystemClock())
    with postgres_server() as server:
        async with projecting(log, server.url) as readiness, reading(log, server.url) as (models, progress):
            assert await progress.wait_for(publish(log, history(range(40))), 10)
            await asyncio.to_thread(server.stop)
            await until(lambda: not readiness.met, seconds=15.0)
            publish(log, history(range(13, 53)))
            with pytest.raises(Transient):
                await models.tasks()
            await asyncio.sleep(1.0)
            await asyncio.to_thread(server.start)
            assert await progress.wait_for(80, 20)
            await until(lambda: readiness.met, seconds=15.0)
            async with connection(server.url) as opened:
                name = quoted(schema.schema_name("acme"))
                doubles = await opened.fetchval(f"SELECT count(*) - count(DISTINCT position) FROM {name}.entries")
            assert doubles == 0
            assert (await models.checkpoint()).sequence == 80


async def test_no_tables_yet(postgres_url: str, log: MemoryEventLog) -> None:
    """A reader that comes before the projector is told to try again."""
    async with reading(log, postgres_url) as (models, _):
        with pytest.raises(Transient, match="is the projector running"):
            await models.tasks()


async def test_inbox_keeps_a_gapless_beginning() -> None:
    """Decisions beyond what the inbox holds are dropped, and none behind a dropped one is kept."""
    (record,) = records(("task", "shop-1", submitted()))
    inbox = Inbox()
    for _ in range(MOST_WAITING + 5):
        inbox.put(record)
    assert inbox.overflowed
    assert len(await inbox.take()) == MOST_WAITING
    inbox.put(record)
    inbox.wake()
    assert await inbox.take() == []
