"""The notifier, put together: fold what is pending, follow the log, plan, deliver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from events.delivery import DELIVERY
from infra.entities import EntityStore
from infra.ports import Clock, EventLog
from infra.settings import Webhook
from services.notifier.deliverer import Deliverer, read_pending
from services.notifier.handlers import Planner
from services.notifier.ports import PositionStore, Sender

Guard = Callable[[asyncio.Task[None]], asyncio.Task[None]]


class Notifier:
    """``guard`` is given every task that must not end by itself."""

    def __init__(
        self,
        events: EventLog,
        clock: Clock,
        webhooks: Mapping[str, Webhook],
        sender: Sender,
        positions: PositionStore,
        guard: Guard,
    ) -> None:
        store = EntityStore(events, DELIVERY, clock)
        self._events = events
        self._guard = guard
        self._deliverer = Deliverer(store, sender, clock, guard)
        self._planner = Planner(events, store, clock, webhooks, positions, self._deliverer.take)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        pending, last_planned = await read_pending(self._events)
        for item in pending:
            self._deliverer.take(item.delivery, item.cause)
        await self._planner.start(last_planned)
        for work in (self._planner.plan_for_ever(), self._planner.keep_position_for_ever()):
            self._tasks.append(self._guard(asyncio.create_task(work)))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._planner.close()
        await self._deliverer.close()
