"""Read your writes: wait until the read models hold a decision.

The projector notifies with every commit. One connection listens for the whole process; while it is away, waiting
goes on until its time is over, and what was missed is read from the checkpoint when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from datetime import datetime
from typing import TYPE_CHECKING, Any

import structlog

from events.errors import Permanent, Transient
from infra.postgres import connection, transient
from projections.schema import checkpoint, schema_name

if TYPE_CHECKING:
    from infra.postgres import Connection

FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 2.0
# How soon a connection that broke unnoticed is found out.
LOOK_SECONDS = 5.0

log = structlog.get_logger()


class ReadModelProgress:
    """``sequence`` is how far the read models of ``tenant`` are known to be. Use it as ``async with``."""

    def __init__(self, url: str, tenant: str) -> None:
        self.sequence = 0
        self._url = url
        self._schema = schema_name(tenant)
        self._waiting: list[tuple[int, int, asyncio.Future[bool]]] = []
        self._number = itertools.count()
        self._log_created_at: datetime | None = None
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ReadModelProgress:
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listening is not None:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening

    async def wait_for(self, sequence: int, timeout_seconds: float) -> bool:
        """Whether the read models hold the decision ``sequence`` within ``timeout_seconds``."""
        if sequence <= self.sequence:
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (sequence, next(self._number), future))
        try:
            async with asyncio.timeout(timeout_seconds):
                return await future
        except TimeoutError:
            return False

    async def _listen(self) -> None:
        delay = FIRST_RETRY_SECONDS
        while True:
            try:
                async with connection(self._url, name="cairn-listener") as listener:
                    await listener.add_listener(self._schema, self._notified)
                    delay = FIRST_RETRY_SECONDS
                    # A PostgreSQL that crashed may have lost the last moments (projections.store).
                    self.sequence = 0
                    while True:
                        await self._look(listener)
                        await asyncio.sleep(LOOK_SECONDS)
            except (Transient, Permanent) as error:
                log.debug("not listening", error=str(error))
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_RETRY_SECONDS)

    async def _look(self, listener: Connection) -> None:
        with transient():
            found = await checkpoint(listener, self._schema)
        if found is None:
            return
        if found.log_created_at != self._log_created_at:
            # Read models of another log may stand lower than those before.
            self._log_created_at = found.log_created_at
            self.sequence = 0
        self._reached(found.sequence)

    def _notified(self, connection: Any, pid: int, channel: str, payload: object) -> None:
        self._reached(int(str(payload)))

    def _reached(self, sequence: int) -> None:
        self.sequence = max(self.sequence, sequence)
        while self._waiting and self._waiting[0][0] <= sequence:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(True)
