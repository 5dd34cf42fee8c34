"""Commands into the in-memory queues, outcomes back to whoever asked."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec

from events import subjects
from events.codec import decode_outcome, encode
from events.envelope import CommandEnvelope, Outcome
from infra.memory.queues import MemoryCommandSource
from infra.ports import Clock


class MemoryCommandBus:
    def __init__(self, source: MemoryCommandSource, tenant: str, clock: Clock) -> None:
        self._source = source
        self._tenant = tenant
        self._clock = clock
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}

    async def send(self, service: str, target: str, envelope: CommandEnvelope) -> bool:
        return self._source.publish(self._subject(service, target, envelope), encode(envelope), envelope.id)

    def cast(self, service: str, target: str, envelope: CommandEnvelope) -> None:
        self._source.publish(self._subject(service, target, envelope), encode(envelope))

    async def ask(
        self, service: str, target: str, envelope: CommandEnvelope, *, timeout_seconds: float
    ) -> Outcome | None:
        reply = f"_INBOX.memory.{next(self._numbers)}"
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = future
        limit: asyncio.Future[Any] = asyncio.ensure_future(self._clock.sleep(timeout_seconds))
        try:
            if not await self.send(service, target, msgspec.structs.replace(envelope, reply=reply)):
                return None
            await asyncio.wait((future, limit), return_when=asyncio.FIRST_COMPLETED)
            outcome: Outcome | None = future.result() if future.done() else None
            return outcome
        finally:
            del self._waiting[reply]
            limit.cancel()

    def reply(self, envelope: CommandEnvelope, outcome: Outcome) -> None:
        future = self._waiting.get(envelope.reply)
        if future is not None and not future.done():
            future.set_result(decode_outcome(encode(outcome)))

    def _subject(self, service: str, target: str, envelope: CommandEnvelope) -> str:
        return subjects.command(self._tenant, service, target, envelope.entity, envelope.entity_id)
