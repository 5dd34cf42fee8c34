"""A rebuild: all read models folded anew from the log, beside those in use, then put in their place.

It takes the way that live events take, in larger batches and with the secondary indexes made at the end. Readers
use the old tables until the swap. A rebuild that dies leaves tables that the next one drops.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from infra.ports import EventLog
from projections import schema
from projections.store import Store

if TYPE_CHECKING:
    from events.envelope import Recorded
    from infra.postgres import Connection

# Decisions in one transaction: enough that the transaction's own cost vanishes, few enough to stay small in memory.
BATCH = 4_000

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
        await schema.complete(connection, building)
        await schema.swap(connection, building, current)
    seconds = time.monotonic() - began
    log.info("rebuilt the read models", decisions=decisions, sequence=store.sequence, seconds=round(seconds, 3))
    return store.sequence


async def catch_up(store: Store, event_log: EventLog, batch: int) -> int:
    """Write what the log holds above ``store.sequence`` now, ``batch`` decisions a transaction; answers how many.

    While PostgreSQL takes one batch the next one is read.
    """
    count = 0
    gathered: list[Recorded] = []
    writing = asyncio.create_task(store.write([]))
    try:
        async for records in event_log.replay(after=store.sequence):
            gathered += records
            if len(gathered) >= batch:
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
