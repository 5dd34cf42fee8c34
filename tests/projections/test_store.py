"""Rows in a real PostgreSQL: the same however they got there, whole or not at all."""

from __future__ import annotations

import random
from typing import Any

import pytest

from events.content import Inline
from events.environment import ToolCallCompleted
from events.errors import Permanent, Transient
from events.run import ModelResponded
from infra.memory.event_log import MemoryEventLog
from infra.postgres import connect_pool, connection, quoted, without_password
from projections import schema
from projections.rebuild import rebuild
from projections.store import Store
from tests.projections.conftest import publish
from tests.projections.histories import history, records, run_started, submitted

pytestmark = pytest.mark.integration


async def contents(opened: Any, name: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, sorted."""
    found = {}
    for table in schema.TABLES:
        rows = await opened.fetch(f"SELECT * FROM {quoted(name)}.{table}")
        found[table] = sorted((tuple(row) for row in rows), key=repr)
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_incremental_equals_rebuilt(postgres_url: str, log: MemoryEventLog, seed: int) -> None:
    """Tables written batch by batch, by stores that know nothing of one another, equal those of a rebuild."""
    chance = random.Random(seed)
    decisions = history(chance.randrange(10_000) for _ in range(400))
    publish(log, decisions)
    incremental = f"incremental_{log.tenant}"
    async with connection(postgres_url) as opened:
        await schema.create(opened, incremental, await log.created_at())
        sequence = 0
        while sequence < len(decisions):
            store = Store(opened, incremental, sequence)
            for _ in range(chance.randint(1, 3)):
                await store.write(decisions[store.sequence : store.sequence + chance.randint(1, 40)])
            sequence = store.sequence
        assert await rebuild(opened, log, "test") == len(decisions)
        rebuilt = schema.schema_name(log.tenant)
        assert await contents(opened, incremental) == await contents(opened, rebuilt)
        found = await schema.checkpoint(opened, rebuilt)
        assert found == schema.Checkpoint(
            version=schema.VERSION, log_created_at=await log.created_at(), sequence=len(decisions)
        )


async def test_rebuild_leaves_nothing_behind(postgres_url: str, log: MemoryEventLog) -> None:
    """After a rebuild there is one schema of the tenant, and a second rebuild takes its place."""
    publish(log, records(("task", "shop-1", submitted())))
    async with connection(postgres_url) as opened:
        await rebuild(opened, log, "test")
        await rebuild(opened, log, "test")
        names = await opened.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE $1", f"%{log.tenant}%")
    assert [row["nspname"] for row in names] == [schema.schema_name(log.tenant)]


async def test_nul_characters_are_replaced(postgres_url: str, log: MemoryEventLog) -> None:
    """What a program printed may hold NUL characters, which PostgreSQL's text cannot: they show as U+FFFD."""
    run = "shop-1-development-1"
    completed = ToolCallCompleted(call_id="c", run_id=run, tool="sh\0ell", duration_ms=1, content=Inline("a\0b"))
    decisions = records(
        ("task", "shop-1", submitted(title="zero \0")),
        ("run", run, (run_started(), ModelResponded(step=1, text="\0"))),
        ("environment", "shop-1-development", completed),
    )
    async with connection(postgres_url) as opened:
        name = schema.schema_name(log.tenant)
        await schema.create(opened, name, await log.created_at())
        await Store(opened, name, 0).write(decisions)
        assert await opened.fetchval(f"SELECT result FROM {quoted(name)}.call_states") == "a\ufffdb"
        assert await opened.fetchval(f"SELECT title FROM {quoted(name)}.tasks") == "zero \ufffd"


async def test_two_writers_never_both_commit(postgres_url: str, log: MemoryEventLog) -> None:
    """Of two stores at the same checkpoint the second one is refused, and has written nothing."""
    decisions = records(("task", "shop-1", submitted()), ("task", "shop-2", submitted(2)))
    name = schema.schema_name(log.tenant)
    async with connection(postgres_url) as opened, connection(postgres_url) as other:
        await schema.create(opened, name, await log.created_at())
        first, second = Store(opened, name, 0), Store(other, name, 0)
        await first.write(decisions[:1])
        with pytest.raises(Transient, match="another projector"):
            await second.write(decisions)
        assert await opened.fetchval(f"SELECT count(*) FROM {quoted(name)}.tasks") == 1


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("", Permanent, "postgres.url"),
        ("not a url", Permanent, "is no URL"),
        ("postgresql://postgres@127.0.0.1:1/x", Transient, "127.0.0.1:1"),
    ],
)
async def test_connecting_says_what_is_wrong(url: str, error: type[Exception], text: str) -> None:
    """What keeps us from PostgreSQL is said, with the setting to look at or where it should have been."""
    with pytest.raises(error, match=text):
        await connect_pool(url)


async def test_missing_database_is_permanent(postgres_url: str) -> None:
    """A database that does not exist will not exist in a moment either."""
    with pytest.raises(Permanent, match="does not exist"):
        await connect_pool(postgres_url.replace("/postgres?", "/nothing?"))


def test_passwords_are_not_shown() -> None:
    """A URL as it is shown has no user, password or options."""
    assert without_password("postgresql://me:secret@db:5432/cairn?sslkey=x") == "postgresql://db:5432/cairn"


@pytest.mark.parametrize(("tenant", "length"), [("acme", 10), ("a" * 63, 43)])
def test_schema_names_fit(tenant: str, length: int) -> None:
    """PostgreSQL would cut names off at 63 bytes, and so mix tenants up."""
    assert len(schema.schema_name(tenant)) == length
    assert len(schema.building_name(tenant)) <= 63
    assert schema.schema_name(tenant) != schema.schema_name(f"{tenant[:-1]}b")
