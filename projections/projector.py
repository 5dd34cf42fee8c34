"""The projector: keeps the read models at the end of the log.

It reads the checkpoint, rebuilds where the read models do not fit the log (``schema.why_unfit``), catches up by
replay, then follows. Each turn writes all that has come since the last one, so that a lone decision is written at
once and a flood in large batches. Where it falls far behind it stops following and replays, which waits for the
writer.

When PostgreSQL or the log is away it begins again from the checkpoint, after a pause that grows to two seconds.
Rows and checkpoint are written together, so nothing is lost or written twice. A session lock of PostgreSQL lets one
projector work on a tenant; others stand by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from prometheus_client import Counter, Gauge

from events.envelope import Recorded
from events.errors import Transient
from infra import semantics, telemetry
from infra.metrics import REGISTRY
from infra.ports import Clock, EventLog
from infra.postgres import connection
from projections import schema
from projections.rebuild import BATCH, catch_up, rebuild
from projections.store import Store

if TYPE_CHECKING:
    from infra.postgres import Connection

FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 2.0
RECONCILE_SECONDS = 60.0
# Decisions that wait for the writer beyond this are read again by replay rather than kept in memory.
MOST_WAITING = 50_000

log = structlog.get_logger()

REBUILDS = Counter(
    "cairn_projection_rebuilds", "Rebuilds of the read models, by reason.", ("reason",), registry=REGISTRY
)
PROJECTED = Counter("cairn_projection_decisions", "Decisions written to the read models live.", registry=REGISTRY)
SEQUENCE = Gauge("cairn_projection_sequence", "The last decision in the read models.", registry=REGISTRY)

# report(met, reason): whether the read models are being kept up, and why not
Report = Callable[[bool, str], None]


class Link(Protocol):
    """What is asked of a store's connection."""

    def is_closed(self) -> bool: ...

    def add_termination_listener(self, callback: Callable[[Any], None]) -> None: ...

    def remove_termination_listener(self, callback: Callable[[Any], None]) -> None: ...


class Projector:
    def __init__(self, event_log: EventLog, url: str, clock: Clock, report: Report = lambda met, reason: None) -> None:
        self._log = event_log
        self._url = url
        self._clock = clock
        self._report = report
        self._schema = schema.schema_name(event_log.tenant)

    async def run(self) -> None:
        """Work until cancelled. Raises ``Permanent`` where PostgreSQL refuses us."""
        delay = FIRST_RETRY_SECONDS
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self.work()
            except Transient as error:
                self._report(False, str(error))
                # What worked for a while begins anew with the shortest pause.
                worked = asyncio.get_running_loop().time() - began > LONGEST_RETRY_SECONDS
                delay = FIRST_RETRY_SECONDS if worked else min(delay * 2, LONGEST_RETRY_SECONDS)
                log.warning("the projector pauses", error=str(error), seconds=delay)
            await self._clock.sleep(delay)

    async def work(self) -> None:
        """Once: from the checkpoint on, until something fails. Raises ``Transient``."""
        async with connection(self._url, name="cairn-projector") as opened:
            await self._only_one(opened)
            # Safe with the checkpoint in the same transaction, and faster: see projections.store.
            await opened.execute("SET synchronous_commit TO off")
            await self.keep_up(opened, await self._fitting_store(opened))

    async def keep_up(self, opened: Link, store: Store) -> None:
        """Write what the log holds above ``store.sequence``, then what comes, over the connection of the store."""
        while True:
            await catch_up(store, self._log, BATCH)
            await self._follow(opened, store)

    async def _only_one(self, opened: Connection) -> None:
        taken = await opened.fetchval("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", self._schema)
        if not taken:
            message = "another projector is at work; this one stands by"
            raise Transient(message)

    async def _fitting_store(self, opened: Connection) -> Store:
        found = await schema.checkpoint(opened, self._schema)
        reason = schema.why_unfit(found, await self._log.created_at(), await self._log.last_sequence())
        if found is None or reason:
            self._report(False, f"rebuilding the read models ({reason})")
            REBUILDS.labels(reason).inc()
            sequence = await rebuild(opened, self._log, reason)
        else:
            sequence = found.sequence
        SEQUENCE.set(sequence)
        return Store(opened, self._schema, sequence)

    async def _follow(self, opened: Link, store: Store) -> None:
        """Write what comes, until it comes faster than it can be written."""
        inbox = Inbox()
        created_at = await self._log.created_at()
        following = await self._log.follow(inbox.put, after=store.sequence)
        watching = asyncio.create_task(self._watch_fit(store, inbox, created_at))
        opened.add_termination_listener(inbox.wake)
        self._report(True, "")
        try:
            while not inbox.overflowed:
                batch = await inbox.take()
                if opened.is_closed():
                    message = "PostgreSQL closed the connection"
                    raise Transient(message)
                if inbox.unfit:
                    message = f"the read models do not fit the log any more ({inbox.unfit})"
                    raise Transient(message)
                await _write(store, batch)
        finally:
            watching.cancel()
            opened.remove_termination_listener(inbox.wake)
            await following.close()

    async def _watch_fit(self, store: Store, inbox: Inbox, created_at: datetime) -> None:
        """Every minute: a log that was put back from a copy is not the one that the read models were made of."""
        while not inbox.unfit:
            await self._clock.sleep(RECONCILE_SECONDS)
            known = schema.Checkpoint(version=schema.VERSION, log_created_at=created_at, sequence=store.sequence)
            try:
                reason = schema.why_unfit(known, await self._log.created_at(), await self._log.last_sequence())
            except Transient as error:
                log.warning("the log cannot be compared with the read models", error=str(error))
                continue
            if reason:
                inbox.unfit = reason
                inbox.wake()


class Inbox:
    """Decisions that wait for the writer. One that does not fit is dropped, and with it all that come after it."""

    def __init__(self) -> None:
        self.overflowed = False
        self.unfit = ""
        self._records: list[Recorded] = []
        self._arrived = asyncio.Event()

    def put(self, record: Recorded) -> None:
        if len(self._records) >= MOST_WAITING:
            self.overflowed = True
        if not self.overflowed:
            self._records.append(record)
        self._arrived.set()

    def wake(self, _: object = None) -> None:
        self._arrived.set()

    async def take(self) -> list[Recorded]:
        """All that has come, as soon as something has, or when somebody wakes it."""
        await self._arrived.wait()
        self._arrived.clear()
        records, self._records = self._records, []
        return records


async def _write(store: Store, records: list[Recorded]) -> None:
    spans = [
        telemetry.started_span(
            "project",
            kind=semantics.CONSUMER,
            trace=record.envelope.trace,
            attributes={semantics.ENTITY_ID: record.envelope.entity_id, semantics.SEQUENCE: record.sequence},
        )
        for record in records
        if record.envelope.trace
    ]
    await store.write(records)
    PROJECTED.inc(len(records))
    SEQUENCE.set(store.sequence)
    for span in spans:
        span.end()
