"""What readers ask of the read models. Every answer is a dict by column name, or a list of them.

The columns are described in ``sql/schema.sql``, the statements stand in ``sql/queries.sql``. Columns of type json come
as ``msgspec.Raw``: ``msgspec.json.encode`` puts them into an answer as they are, ``msgspec.json.decode`` reads them.

Lists are newest first and paged: ``after`` is the id of the last row that was seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from events.errors import Transient
from infra.postgres import connect_pool, transient
from projections.schema import Checkpoint, schema_name
from projections.statements import statements

if TYPE_CHECKING:
    from infra.postgres import Connection, Pool

Row = dict[str, Any]

PAGE = 100
RECENT = 20


class ReadModels:
    """Reads over a pool whose search path is the tenant's schema (``open_read_models``).

    Every method raises ``Transient`` where PostgreSQL is away, or the tables are not there yet.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._statements = statements("queries.sql")

    async def close(self) -> None:
        """Wait for the queries under way, then close the connections."""
        await self._pool.close()

    async def checkpoint(self) -> Checkpoint:
        """What the read models are a fold of."""
        row = await self._one("checkpoint")
        if row is None:
            raise Transient(_NOT_THERE)
        return Checkpoint(**row)

    async def projects(self) -> list[Row]:
        """Columns of ``projects``, and ``tasks`` and ``agents_running`` (counts)."""
        return await self._all("projects", None)

    async def project(self, id: str) -> Row | None:
        return await self._one("projects", id)

    async def tasks(
        self,
        *,
        project: str | None = None,
        statuses: Sequence[str] | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> list[Row]:
        """Rows of the view ``board``."""
        return await self._all("tasks", project, statuses, after, limit)

    async def tasks_by_id(self, ids: Sequence[str]) -> list[Row]:
        """Rows of the view ``board`` for those of ``ids`` that exist, in no order."""
        return await self._all("tasks_by_id", ids)

    async def task(self, id: str) -> Row | None:
        """A row of ``board`` with ``specification``, ``pipeline``, ``questions``, and ``run_list``: its runs, first
        to last, as rows of ``runs``."""
        task = await self._one("task", id)
        if task is not None:
            task["run_list"] = await self._all("runs_of_task", id)
        return task

    async def runs(
        self, *, statuses: Sequence[str] | None = None, after: str | None = None, limit: int = PAGE
    ) -> list[Row]:
        return await self._all("runs", statuses, after, limit)

    async def run(self, id: str) -> Row | None:
        return await self._one("run", id)

    async def timeline(self, run: str, *, after: int = 0, limit: int = 1000) -> list[Row]:
        """Rows of the view ``timeline`` in their order; ``after`` is the position of the last row that was seen."""
        return await self._all("timeline", run, after, limit)

    async def timeline_changes(self, run: str, sequence: int) -> list[Row]:
        """Those rows of a run's timeline that a decision above ``sequence`` added or changed, in their order."""
        return await self._all("timeline_changes", run, sequence)

    async def call(self, id: str) -> Row | None:
        """Where a call stands, of a run or of a gate's check: the last of its ``call_states``, ``result`` as content.
        None where it has not begun."""
        return await self._one("call", id)

    async def environments(
        self,
        *,
        task: str | None = None,
        statuses: Sequence[str] | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> list[Row]:
        return await self._all("environments", task, statuses, after, limit)

    async def environment(self, id: str) -> Row | None:
        return await self._one("environment", id)

    async def pull_requests(
        self,
        *,
        states: Sequence[str] | None = None,
        task: str | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> list[Row]:
        """Rows of ``pull_requests`` without ``description`` and ``diff``."""
        return await self._all("pull_requests", states, task, after, limit)

    async def pull_request(self, id: str) -> Row | None:
        return await self._one("pull_request", id)

    async def deliveries(
        self,
        *,
        channel: str | None = None,
        statuses: Sequence[str] | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> list[Row]:
        return await self._all("deliveries", channel, statuses, after, limit)

    async def experiments(
        self,
        *,
        target: str | None = None,
        statuses: Sequence[str] | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> list[Row]:
        return await self._all("experiments", target, statuses, after, limit)

    async def experiment(self, id: str) -> Row | None:
        return await self._one("experiment", id)

    async def chaos(self) -> list[Row]:
        """Rows of ``chaos``: that of the halt, where there ever was one, and one for each host."""
        return await self._all("chaos")

    async def queue(self) -> Row:
        """``by_status``: tasks by status. ``projects``: of each its id, ``agents_at_once``, ``running`` and
        ``starting`` (counts of agents). ``breakers``: rows of ``breakers``. ``recent``: the tasks that changed last."""
        by_status = await self._all("tasks_by_status")
        return {
            "by_status": {row["status"]: row["tasks"] for row in by_status},
            "projects": await self._all("agents_by_project"),
            "breakers": await self._all("breakers"),
            "recent": await self._all("recent_tasks", RECENT),
        }

    async def _all(self, name: str, *values: Any) -> list[Row]:
        with _readable():
            return [dict(row) for row in await self._pool.fetch(self._statements[name], *values)]

    async def _one(self, name: str, *values: Any) -> Row | None:
        with _readable():
            row = await self._pool.fetchrow(self._statements[name], *values)
            return None if row is None else dict(row)


_NOT_THERE = "the read models are not there yet: is the projector running?"


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        with transient():
            yield
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError) as error:
        raise Transient(_NOT_THERE) from error


async def open_read_models(url: str, tenant: str, *, name: str = "cairn") -> ReadModels:
    """The read models of ``tenant`` in the PostgreSQL at ``url``. Raises ``Transient`` and ``Permanent``.

    ``name`` is what PostgreSQL's own views show the connections as.
    """
    pool = await connect_pool(url, search_path=schema_name(tenant), name=name, prepare=_read_json_as_it_is)
    return ReadModels(pool)


async def _read_json_as_it_is(connection: Connection) -> None:
    await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=msgspec.Raw, format="binary")
