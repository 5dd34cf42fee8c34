"""A rebuild: all read models folded anew from the log, beside those in use, then put in their place.

It takes the way that live events take, in larger batches. All of it
is one transaction: readers use the old tables until it commits, and a rebuild that dies leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import structlog

from infra.ports import EventLog
from projections import schema
from projections.store import Store

if TYPE_CHECKING:
    from events.envelope import Recorded
    from infra.postgres import Connection

# Decisions in one write, at least: enough that its own cost vanishes.
BATCH = 2_000
# So many times that, at most: few enough to stay small in memory.
LARGEST_BATCHES = 6

# Objects that may come to be before the collector looks for cycles: more than two batches are made of.
GARBAGE_THRESHOLD = 500_000

log = structlog.get_logger()


async def rebuild(connection: Connection, event_log: EventLog, reason: str) -> int:
    """Rebuild the read models of the log's tenant; answers with the sequence that they stand at.

    What comes to the log in the meantime is left for the caller to catch up. Raises ``Transient``.
    """
    began = time.monotonic()
    current, building = schema.schema_name(event_log.tenant), schema.building_name(event_log.tenant)
    log.info("rebuilding the read models", reason=reason, schema=current)
    async with connection.transaction():
        await schema.create(connection, building, await event_log.created_at())
        store = Store(connection, building, 0)
        decisions = await catch_up(store, event_log, BATCH)
        await schema.analyze(connection, building)
        await schema.swap(connection, building, current)
    seconds = time.monotonic() - began
    log.info("rebuilt the read models", decisions=decisions, sequence=store.sequence, seconds=round(seconds, 3))
    return store.sequence


async def catch_up(store: Store, event_log: EventLog, batch: int) -> int:
    """Write what the log holds above ``store.sequence`` now, ``batch`` decisions a transaction or more; answers how
    many.

    While PostgreSQL takes one batch the next one is read and decoded, a larger one where it takes long.
    """
    with _collecting_seldom():
        return await _catch_up(store, event_log, batch)


async def _catch_up(store: Store, event_log: EventLog, batch: int) -> int:
    count = 0
    gathered: list[Recorded] = []
    writing = asyncio.create_task(store.write([]))
    try:
        async for records in event_log.replay(after=store.sequence):
            gathered += records
            if len(gathered) >= batch and (writing.done() or len(gathered) >= batch * LARGEST_BATCHES):
                await writing
                writing = asyncio.create_task(store.write(gathered))
                count += len(gathered)
                gathered = []
        await writing
        await store.write(gathered)
    finally:
        writing.cancel()
        await asyncio.wait({writing})
    return count + len(gathered)


@contextlib.contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Decisions are trees, which reference counts free; the cycle collector would walk through all that wait in a
    batch again and again, for a quarter of the time of a rebuild."""
    thresholds = gc.get_threshold()
    gc.set_threshold(GARBAGE_THRESHOLD, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
