"""What a process knows of the breakers of the credentials that its runs use.

A breaker is read once, when the first run asks for it, and followed from there.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from events.breaker import BREAKER, Breaker
from events.envelope import Recorded
from infra.ports import EventLog
from services.agent_runner.watch import Watch


class Breakers:
    def __init__(self, log: EventLog, watch: Watch) -> None:
        self._log = log
        self._watch = watch
        self._known: dict[str, tuple[Breaker, int]] = {}
        self._changed: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def begin(self, id: str) -> None:
        """Know the breaker from here on. Raises ``Transient``."""
        if id in self._known:
            return
        self._known[id] = (BREAKER.initial(id), 0)
        self._watch.add(BREAKER.name, id, self._receive)
        try:
            records = await self._log.load(BREAKER.name, id)
        except BaseException:
            self._watch.remove(BREAKER.name, id, self._receive)
            del self._known[id]
            raise
        for record in records:
            self._receive(record)

    def known(self, id: str) -> Breaker:
        return self._known[id][0]

    async def change(self, id: str, seconds: float) -> None:
        """Wait until something is heard of the breaker, or the time is over."""
        changed = self._changed[id]
        changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            return

    def _receive(self, record: Recorded) -> None:
        id = record.envelope.entity_id
        breaker, revision = self._known[id]
        if record.sequence > revision:
            self._known[id] = (BREAKER.fold_onto(breaker, record.envelope.events), record.sequence)
            self._changed[id].set()
