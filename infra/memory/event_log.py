"""The event log as a list of messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from events import subjects
from events.codec import decode_event, encode
from events.envelope import Envelope, Recorded
from events.errors import RevisionConflict, UndecodableMessage
from infra.ports import Clock

REPLAYED_BATCH = 1000


class _Message(NamedTuple):
    sequence: int
    subject: str
    data: bytes
    id: str


class MemoryEventLog:
    """``undecodable`` counts the messages that were skipped because they are none of ours."""

    def __init__(self, tenant: str, clock: Clock) -> None:
        self.undecodable = 0
        self._tenant = tenant
        self._created_at = clock.now()
        self._messages: list[_Message] = []
        self._by_subject: dict[str, list[_Message]] = {}
        self._last_of_kind: dict[str, int] = {}
        self._followers: list[MemoryFollowing] = []

    @property
    def tenant(self) -> str:
        return self._tenant

    async def append(self, envelope: Envelope, *, expected: int, of_kind: bool = False) -> int:
        subject = subjects.event(self._tenant, envelope.entity, envelope.entity_id)
        present = self._by_subject.get(subject, [])
        last = present[-1] if present else None
        if last is not None and last.id == envelope.id:
            return last.sequence
        revision = last.sequence if last is not None else 0
        if of_kind:
            revision = self._last_of_kind.get(envelope.entity, 0)
        if revision == expected:
            return self.publish(subject, encode(envelope), envelope.id)
        # A repeat whose answer was lost: it is the one that followed the revision it was made at.
        following = next((message for message in present if message.sequence > expected), None)
        if following is not None and following.id == envelope.id:
            return following.sequence
        message = f"{envelope.entity} {envelope.entity_id} is at revision {revision}, not {expected}"
        raise RevisionConflict(message)

    def publish(self, subject: str, data: bytes, id: str = "") -> int:
        """Put bytes on a subject as they are."""
        message = _Message(len(self._messages) + 1, subject, data, id)
        self._messages.append(message)
        self._by_subject.setdefault(subject, []).append(message)
        self._last_of_kind[subject.split(".")[2]] = message.sequence
        for follower in self._followers:
            follower.wake()
        return message.sequence

    async def load(self, entity: str, id: str, *, after: int = 0) -> list[Recorded]:
        present = self._by_subject.get(subjects.event(self._tenant, entity, id), [])
        records = (self._decoded(message) for message in present if message.sequence > after)
        return [record for record in records if record is not None]

    async def last(self, entity: str, id: str) -> Recorded | None:
        records = await self.load(entity, id)
        return records[-1] if records else None

    async def last_sequence(self) -> int:
        return len(self._messages)

    async def created_at(self) -> datetime:
        return self._created_at

    async def replay(
        self, *, after: int = 0, until: int | None = None, entities: Sequence[str] = ()
    ) -> AsyncIterator[list[Recorded]]:
        end = len(self._messages) if until is None else min(until, len(self._messages))
        for first in range(after, end, REPLAYED_BATCH):
            records = self.between(first, min(first + REPLAYED_BATCH, end), entities)
            if records:
                yield records

    async def follow(
        self, deliver: Callable[[Recorded], None], *, after: int, entities: Sequence[str] = ()
    ) -> MemoryFollowing:
        following = MemoryFollowing(self, self._followers, deliver, after, entities)
        self._followers.append(following)
        following.wake()
        return following

    def between(self, after: int, until: int, entities: Sequence[str]) -> list[Recorded]:
        """The decisions with ``after`` < sequence ≤ ``until``."""
        wanted = {f"evt.{self._tenant}.{entity}" for entity in entities}
        messages = self._messages[after:until]
        picked = (item for item in messages if not wanted or item.subject.rpartition(".")[0] in wanted)
        return [record for item in picked if (record := self._decoded(item)) is not None]

    def __len__(self) -> int:
        return len(self._messages)

    def _decoded(self, message: _Message) -> Recorded | None:
        try:
            return Recorded(message.sequence, decode_event(message.data))
        except UndecodableMessage:
            self.undecodable += 1
            return None


class MemoryFollowing:
    def __init__(
        self,
        log: MemoryEventLog,
        others: list[MemoryFollowing],
        deliver: Callable[[Recorded], None],
        after: int,
        entities: Sequence[str],
    ) -> None:
        self._log = log
        self._others = others
        self._deliver = deliver
        self._last = after
        self._entities = entities
        self._scheduled = False
        self._closed = False

    def wake(self) -> None:
        """Deliver soon, never inside the append itself."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._catch_up)

    async def close(self) -> None:
        self._closed = True
        if self in self._others:
            self._others.remove(self)

    def _catch_up(self) -> None:
        self._scheduled = False
        end = len(self._log)
        records = self._log.between(self._last, end, self._entities)
        self._last = max(self._last, end)
        for record in records:
            if not self._closed:
                self._deliver(record)
