"""Writes what a batch of decisions changed, and the checkpoint, in one transaction.

Entity rows are kept in memory as they were last written; those that a batch touches and that are not there are read
with one SELECT a table. Changed rows are deleted and copied in, the append-only tables only copied: COPY is the
fastest way in, takes every type, and needs no statement a table. A notification with the sequence goes out with the
commit, on the channel named like the schema.

The log is the truth, so commits do not wait for the disk (``synchronous_commit`` off): a PostgreSQL that loses the
last moments loses rows and checkpoint together. Whoever reconnects reads the checkpoint anew, in a new ``Store``;
after any error the old one must not be used again.

There is one writer. If there should ever be two, the checkpoint's condition lets only one of them commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from events.envelope import Recorded
from events.errors import Transient
from infra.postgres import quoted
from projections.fold import PROJECTIONS, Changes, Rows, fold, missing
from projections.timeline import CallState, Entry

if TYPE_CHECKING:
    from infra.postgres import Connection

# Rows beyond this are forgotten, all at once, and read again when they are needed.
KEPT_ROWS = 50_000
COPY_SECONDS = 600.0

_astuple = msgspec.structs.astuple


class Store:
    """The tables of ``schema`` over one connection. ``sequence`` is that of the last decision in them."""

    def __init__(self, connection: Connection, schema: str, sequence: int) -> None:
        self.sequence = sequence
        self._connection = connection
        self._schema = schema
        self._rows: Rows = {projection: {} for projection in PROJECTIONS}

    async def write(self, records: Sequence[Recorded]) -> None:
        """Fold ``records``, which follow ``sequence`` in the log, and commit. Raises ``Transient`` for a lost race."""
        if not records:
            return
        await self._load(records)
        changes = fold(self._rows, records)
        try:
            await self._save(changes, _as_they_are)
        except asyncpg.CharacterNotInRepertoireError:
            # Something holds a NUL character, which text in PostgreSQL cannot.
            await self._save(changes, _without_nul)
        self.sequence = changes.sequence
        for kept in self._rows.values():
            if len(kept) > KEPT_ROWS:
                kept.clear()

    async def _load(self, records: Sequence[Recorded]) -> None:
        for projection, ids in missing(self._rows, records).items():
            columns = ", ".join(quoted(column) for column in projection.columns)
            found = await self._connection.fetch(
                f"SELECT {columns} FROM {self._table(projection.table)} WHERE id = ANY($1)", list(ids)
            )
            known = self._rows[projection]
            known.update(dict.fromkeys(ids))
            for row in found:
                known[row["id"]] = projection.restore(dict(row))

    async def _save(self, changes: Changes, clean: Any) -> None:
        async with self._connection.transaction():
            for projection, rows in changes.rows.items():
                await self._connection.execute(
                    f"DELETE FROM {self._table(projection.table)} WHERE id = ANY($1)", list(rows)
                )
                values = clean(map(projection.values, rows.values()))
                await self._copy(projection.table, projection.columns, values)
            if changes.entries:
                await self._copy("entries", Entry.__struct_fields__, clean(map(_astuple, changes.entries)))
            if changes.call_states:
                await self._copy("call_states", CallState.__struct_fields__, clean(map(_astuple, changes.call_states)))
            await self._advance(changes.sequence)

    async def _copy(self, table: str, columns: Sequence[str], values: Any) -> None:
        await self._connection.copy_records_to_table(
            table, records=values, columns=columns, schema_name=self._schema, timeout=COPY_SECONDS
        )

    async def _advance(self, sequence: int) -> None:
        moved = await self._connection.fetchval(
            f"WITH moved AS (UPDATE {self._table('checkpoint')} SET sequence = $1 WHERE sequence = $2 RETURNING 1) "
            "SELECT pg_notify($3, $4) IS NOT NULL FROM moved",
            sequence,
            self.sequence,
            self._schema,
            str(sequence),
        )
        if moved is None:
            message = "another projector writes the same read models"
            raise Transient(message)

    def _table(self, name: str) -> str:
        return f"{quoted(self._schema)}.{quoted(name)}"


def _as_they_are(rows: Any) -> Any:
    return rows


def _without_nul(rows: Any) -> Any:
    for row in rows:
        yield tuple(value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in row)
