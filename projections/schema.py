"""Where the read models stand, and whether they still fit.

The tables of a tenant are in the PostgreSQL schema ``cairn_<tenant>``. There are no migrations: what is there is used
only if it was made by this ``VERSION`` from this log and is not ahead of it; else the projector rebuilds. A rebuild
fills ``building_cairn_<tenant>`` and swaps the two names in one transaction, so that readers see the old tables or
the new ones and never a half.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg
import msgspec

from infra.postgres import quoted
from projections import statements

if TYPE_CHECKING:
    from infra.postgres import Connection

# Raised with every change of the tables or of a fold.
VERSION = 6

# The version of read models that somebody wants to be made anew.
ASKED = 0

TABLES = (
    "projects",
    "tasks",
    "breakers",
    "runs",
    "environments",
    "pull_requests",
    "deliveries",
    "experiments",
    "chaos",
    "entries",
    "call_states",
)

# Over many tables on a slow disk it takes longer than a command otherwise may.
ANALYZE_SECONDS = 600.0

# PostgreSQL cuts names off at 63 bytes.
_LONGEST_TENANT = 40


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What the read models are a fold of."""

    version: int
    log_created_at: datetime
    sequence: int


def schema_name(tenant: str) -> str:
    """The schema of a tenant's read models; also the channel on which the projector notifies."""
    if len(tenant) > _LONGEST_TENANT:
        tenant = f"{tenant[:24]}_{hashlib.sha256(tenant.encode()).hexdigest()[:12]}"
    return f"cairn_{tenant}"


def building_name(tenant: str) -> str:
    return f"building_{schema_name(tenant)}"


async def checkpoint(connection: Connection, schema: str) -> Checkpoint | None:
    """The checkpoint of the read models in ``schema``; None where there are none that this version can read."""
    try:
        row = await connection.fetchrow(f"SELECT version, log_created_at, sequence FROM {quoted(schema)}.checkpoint")
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError, asyncpg.UndefinedColumnError):
        return None
    return None if row is None else Checkpoint(**row)


def why_unfit(found: Checkpoint | None, log_created_at: datetime, last_sequence: int) -> str:
    """Why read models must be rebuilt: ``missing``, ``asked`` (by ``ask_for_rebuild``), ``version``,
    ``other-log`` or ``ahead``; empty where they fit."""
    if found is None:
        return "missing"
    if found.version == ASKED:
        return "asked"
    if found.version != VERSION:
        return "version"
    if found.log_created_at != log_created_at:
        return "other-log"
    return "ahead" if found.sequence > last_sequence else ""


async def ask_for_rebuild(connection: Connection, schema: str) -> bool:
    """Have the projector rebuild the read models now; readers use the old ones until then. False where there are none.

    Its session is ended: when it comes back, it looks at the checkpoint."""
    async with connection.transaction():
        asked = await connection.execute(f"UPDATE {quoted(schema)}.checkpoint SET version = $1", ASKED)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid() "
            "AND (classid::bigint << 32) | objid::bigint = hashtextextended($1, 0)",
            schema,
        )
    return bool(asked != "UPDATE 0")


async def create(connection: Connection, schema: str, log_created_at: datetime) -> None:
    """Empty tables in a new ``schema``; one of that name is dropped first."""
    async with connection.transaction():
        await connection.execute(f"DROP SCHEMA IF EXISTS {quoted(schema)} CASCADE; CREATE SCHEMA {quoted(schema)}")
        await connection.execute(f"SET LOCAL search_path TO {quoted(schema)}")
        await connection.execute(statements.text("schema.sql"))
        await connection.execute("INSERT INTO checkpoint VALUES ($1, $2, 0)", VERSION, log_created_at)


async def analyze(connection: Connection, schema: str) -> None:
    """Gather the statistics that queries are planned by: from a small sample, until autovacuum takes a larger one."""
    async with connection.transaction():
        await connection.execute(f"SET LOCAL search_path TO {quoted(schema)}")
        await connection.execute("SET LOCAL default_statistics_target TO 1")
        await connection.execute(f"ANALYZE {', '.join(TABLES)}", timeout=ANALYZE_SECONDS)


async def swap(connection: Connection, building: str, current: str) -> None:
    """Put the tables of ``building`` in the place of those of ``current``, and tell those who listen."""
    async with connection.transaction():
        # What a rebuild took so long to make is not lost with a server that is killed right after.
        await connection.execute("SET LOCAL synchronous_commit TO on")
        await connection.execute(
            f"DROP SCHEMA IF EXISTS {quoted(current)} CASCADE; "
            f"ALTER SCHEMA {quoted(building)} RENAME TO {quoted(current)}"
        )
        await connection.execute(f"SELECT pg_notify($1, sequence::text) FROM {quoted(current)}.checkpoint", current)
