"""The tenant's events in JetStream: appends with an expected revision, reads, replays, follows.

An append whose acknowledgement was lost is resolved by reading, never by guessing: the last message of the entity's
subject, and the first one behind the expected revision, tell whether it is there. The same goes for a conflict,
which may be the answer to the second attempt of an append that succeeded. Both are asked of the stream's leader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime

from events import subjects
from events.codec import decode_event, encode
from events.envelope import Envelope, Recorded
from events.errors import RevisionConflict, Transient, UndecodableMessage
from infra.jetstream.direct import BEHIND_SECONDS, StoredMessage, read_all, read_from_leader, read_last
from infra.jetstream.pull import SILENCE_SECONDS, Follower, Pull
from infra.jetstream.requests import (
    PAUSE_SECONDS,
    Lost,
    Refused,
    Requests,
    checked_subject,
    header_block,
)

logger = logging.getLogger("cairn.jetstream")

WRONG_LAST_SEQUENCE = 10071
# Only with replicas: another append to the same subject is under way. It may be an earlier attempt of ours.
SEQUENCE_IN_FLIGHT = 10164

REPLAYED_BATCH = 1000
REPLAYED_AHEAD = 4000


class JetStreamEventLog:
    """``undecodable`` counts the messages that were skipped because they are none of ours."""

    def __init__(self, requests: Requests, tenant: str) -> None:
        self.undecodable = 0
        self._requests = requests
        self._tenant = tenant
        self._stream = subjects.events_stream(tenant)

    @property
    def tenant(self) -> str:
        return self._tenant

    async def append(self, envelope: Envelope, *, expected: int, of_kind: bool = False) -> int:
        subject = checked_subject(subjects.event(self._tenant, envelope.entity, envelope.entity_id))
        data = encode(envelope)
        if of_kind:
            return await self._append_of_kind(envelope, subject, data, expected)
        headers = _headers(envelope, expected)
        try:
            ack = await self._requests.publish_once(subject, data, headers)
        except (Lost, Refused) as error:
            return await self._resolve(envelope, subject, data, expected, error)
        if not ack.duplicate:
            return ack.seq
        return await self._resolve_duplicate(envelope, subject, data, expected, ack.seq)

    async def _append_of_kind(self, envelope: Envelope, subject: str, data: bytes, expected: int) -> int:
        """The server compares ``expected`` with the last message on all subjects of the kind."""
        [kind] = self._filters([envelope.entity])
        headers = _headers(envelope, expected, kind=kind)
        try:
            return (await self._requests.publish_once(subject, data, headers)).seq
        except Refused as error:
            if error.code not in {WRONG_LAST_SEQUENCE, SEQUENCE_IN_FLIGHT}:
                message = f"the log did not take the decision {envelope.id}: {error}"
                raise Transient(message) from error
            message = f"the last decision about a {envelope.entity} is not {expected} any more"
            raise RevisionConflict(message) from error
        except Lost as error:
            sequence, _ = await self._find(envelope, subject, expected)
            if sequence:
                return sequence
            message = f"it is not known whether the log took the decision {envelope.id}: {error}"
            raise Transient(message) from error

    async def load(self, entity: str, id: str, *, after: int = 0) -> list[Recorded]:
        subject = checked_subject(subjects.event(self._tenant, entity, id))
        found = await read_all(self._requests, self._stream, subject, after=after)
        return [record for message in found if (record := self._record(message)) is not None]

    async def last(self, entity: str, id: str) -> Recorded | None:
        subject = checked_subject(subjects.event(self._tenant, entity, id))
        message = await read_last(self._requests, self._stream, subject)
        if message is None:
            return None
        record = self._record(message)
        if record is not None:
            return record
        records = await self.load(entity, id)
        return records[-1] if records else None

    async def last_sequence(self) -> int:
        info = await self._requests.api(f"STREAM.INFO.{self._stream}")
        sequence: int = info["state"]["last_seq"]
        return sequence

    async def created_at(self) -> datetime:
        created: str = (await self._requests.api(f"STREAM.INFO.{self._stream}"))["created"]
        return datetime.fromisoformat(created[:26].rstrip("Z") + "+00:00")

    async def replay(
        self, *, after: int = 0, until: int | None = None, entities: Sequence[str] = ()
    ) -> AsyncIterator[list[Recorded]]:
        end = await self.last_sequence() if until is None else min(until, await self.last_sequence())
        while after < end:
            page = _Page(end)
            pull = Pull(self._requests, self._stream, self._filters(entities), page.receive, page.fail, refill=False)
            try:
                await pull.open(after)
                page.finished = pull.left == 0
                async for batch in page.batches(pull):
                    after = batch[-1][0]
                    records = [record for item in batch if (record := self._decoded(*item)) is not None]
                    if records:
                        yield records
            finally:
                await pull.close()
            if page.finished and not await self._is_behind(after, end, entities):
                return

    async def _is_behind(self, after: int, end: int, entities: Sequence[str]) -> bool:
        """Whether the leader has more up to ``end`` than the replica that was read had by then."""
        if not self._requests.replicated or after >= end:
            return False
        for subject in self._filters(entities) or [f"evt.{self._tenant}.>"]:
            query = {"seq": after + 1, "next_by_subj": subject}
            found = await read_from_leader(self._requests, self._stream, query)
            if found is not None and found.sequence <= end:
                await asyncio.sleep(BEHIND_SECONDS)
                return True
        return False

    async def follow(
        self, deliver: Callable[[Recorded], None], *, after: int, entities: Sequence[str] = ()
    ) -> Follower:
        def receive(sequence: int, time: int, left: int, headers: bytes, data: bytes) -> None:
            record = self._decoded(sequence, data)
            if record is not None:
                deliver(record)

        follower = Follower(self._requests, self._stream, self._filters(entities), receive, after=after)
        await follower.start()
        return follower

    def _filters(self, entities: Sequence[str]) -> list[str]:
        return [checked_subject(f"evt.{self._tenant}.{entity}.x")[:-1] + "*" for entity in entities]

    def _record(self, message: StoredMessage) -> Recorded | None:
        return self._decoded(message.sequence, message.data)

    def _decoded(self, sequence: int, data: bytes) -> Recorded | None:
        try:
            return Recorded(sequence, decode_event(data))
        except UndecodableMessage as error:
            self.undecodable += 1
            logger.warning("message %d of %s is skipped: %s", sequence, self._stream, error)
            return None

    async def _resolve(
        self, envelope: Envelope, subject: str, data: bytes, expected: int, error: Lost | Refused
    ) -> int:
        """Find out what became of an append that was not acknowledged, and try again while it is not there."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._requests.patience_seconds
        headers = _headers(envelope, expected)
        while True:
            if isinstance(error, Refused) and error.code not in {WRONG_LAST_SEQUENCE, SEQUENCE_IN_FLIGHT}:
                message = f"the log did not take the decision {envelope.id}: {error}"
                raise Transient(message) from error
            sequence, last = await self._find(envelope, subject, expected)
            if sequence:
                return sequence
            conflict = isinstance(error, Refused) and error.code == WRONG_LAST_SEQUENCE
            if last > expected or conflict:
                message = f"{envelope.entity} {envelope.entity_id} is at revision {last}, not {expected}"
                raise RevisionConflict(message) from error
            if loop.time() >= deadline:
                message = f"the log did not acknowledge the decision {envelope.id} in time: {error}"
                raise Transient(message) from error
            await asyncio.sleep(PAUSE_SECONDS)
            try:
                await self._requests.wait_ready(deadline)
                return (await self._requests.publish_once(subject, data, headers)).seq
            except (Lost, Refused) as again:
                error = again

    async def _resolve_duplicate(
        self, envelope: Envelope, subject: str, data: bytes, expected: int, sequence: int
    ) -> int:
        """The server knows the message id already. It is a repeat only if the entity has not moved on since."""
        if sequence >= expected:
            found, _ = await self._find(envelope, subject, sequence - 1)
            if found:
                return found
        # An earlier decision had the same id, and this one was made knowing it: the revision alone protects it.
        headers = _headers(envelope, expected, message_id=False)
        try:
            return (await self._requests.publish_once(subject, data, headers)).seq
        except (Lost, Refused) as error:
            return await self._resolve(envelope, subject, data, expected, error)

    async def _find(self, envelope: Envelope, subject: str, expected: int) -> tuple[int, int]:
        """The sequence of our decision (0 where it is not there), and the entity's last sequence."""
        found = await read_from_leader(self._requests, self._stream, {"last_by_subj": subject})
        if found is None:
            return 0, 0
        last = found.sequence
        if _is(envelope, found.data):
            return last, last
        if last > expected + 1:
            query = {"seq": expected + 1, "next_by_subj": subject}
            found = await read_from_leader(self._requests, self._stream, query)
            if found is not None and _is(envelope, found.data):
                return found.sequence, last
        return 0, last


class _Page:
    """Messages of a replay between their arrival and their reader; asks for more as they are read."""

    def __init__(self, end: int) -> None:
        self.finished = False
        self._end = end
        self._items: list[tuple[int, bytes]] = []
        self._failure = ""
        self._arrived = asyncio.Event()

    def receive(self, sequence: int, time: int, left: int, headers: bytes, data: bytes) -> None:
        if self.finished:
            return
        if sequence <= self._end:
            self._items.append((sequence, data))
        if sequence >= self._end or left == 0:
            self.finished = True
        if self.finished or len(self._items) >= REPLAYED_BATCH:
            self._arrived.set()

    def fail(self, reason: str) -> None:
        self._failure = reason
        self._arrived.set()

    async def batches(self, pull: Pull) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Ends when everything was read, or when the consumer broke (then ``finished`` is False)."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._items and (self.finished or self._failure):
                return
            if not self._arrived.is_set() and not self.finished:
                try:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        await self._arrived.wait()
                except TimeoutError:
                    if not self._items and loop.time() - pull.heard_at > SILENCE_SECONDS:
                        return
            self._arrived.clear()
            items, self._items = self._items, []
            if items:
                yield items
                pull.consumed(len(items))


def _headers(envelope: Envelope, expected: int, *, message_id: bool = True, kind: str = "") -> bytes:
    fields = [("Nats-Expected-Last-Subject-Sequence", str(expected))]
    if kind:
        fields.append(("Nats-Expected-Last-Subject-Sequence-Subject", kind))
    if message_id:
        fields.append(("Nats-Msg-Id", f"{envelope.entity}.{envelope.entity_id}:{envelope.id}"))
    if envelope.trace:
        fields.append(("traceparent", envelope.trace))
    return header_block(*fields)


def _is(envelope: Envelope, data: bytes) -> bool:
    try:
        return decode_event(data).id == envelope.id
    except UndecodableMessage:
        return False
