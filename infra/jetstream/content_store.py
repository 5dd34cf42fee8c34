"""Payloads by the SHA-256 of their bytes, one message each, or several where the server takes no larger message.

A payload larger than a part is stored as ``content.<tenant>.<digest>.<n>`` and, last, an empty message under
``content.<tenant>.<digest>`` whose header ``Cairn-Parts`` says how many there are: it is there only when all of
them are. What is read is checked against its digest.
"""

from __future__ import annotations

import asyncio
import logging

from events import subjects
from events.content import digest_of
from events.errors import Transient
from infra.jetstream.direct import StoredMessage, read_only
from infra.jetstream.requests import HEADER_ROOM_BYTES, Refused, Requests, checked_subject, header_block, header_value

logger = logging.getLogger("cairn.jetstream")

PART_BYTES = 512 * 1024
PARTS_AT_ONCE = 4


class JetStreamContentStore:
    def __init__(self, requests: Requests, tenant: str) -> None:
        self._requests = requests
        self._tenant = tenant
        self._stream = subjects.CONTENT

    async def put(self, data: bytes) -> str:
        digest = digest_of(data)
        subject = subjects.content(self._tenant, digest)
        size = min(PART_BYTES, self._requests.client.max_payload - HEADER_ROOM_BYTES)
        if len(data) <= size:
            await self._store(subject, data)
            return digest
        parts = [data[start : start + size] for start in range(0, len(data), size)]
        for first in range(0, len(parts), PARTS_AT_ONCE):
            group = parts[first : first + PARTS_AT_ONCE]
            await asyncio.gather(
                *(self._store(f"{subject}.{first + number}", part) for number, part in enumerate(group))
            )
        await self._store(subject, b"", ("Cairn-Parts", str(len(parts))))
        return digest

    async def get(self, digest: str) -> bytes | None:
        subject = checked_subject(subjects.content(self._tenant, digest))
        message = await read_only(self._requests, self._stream, subject)
        if message is None:
            return None
        data: bytes | None = message.data
        count = header_value(message.headers, b"Cairn-Parts")
        if count.isdigit():
            data = await self._joined(subject, int(count))
        if data is None or digest_of(data) != digest:
            logger.warning("what is stored as %s is not what the name says; it counts as missing", subject)
            return None
        return data

    async def _joined(self, subject: str, count: int) -> bytes | None:
        parts: list[StoredMessage | None] = []
        for first in range(0, count, PARTS_AT_ONCE):
            numbers = range(first, min(count, first + PARTS_AT_ONCE))
            parts += await asyncio.gather(
                *(read_only(self._requests, self._stream, f"{subject}.{number}") for number in numbers)
            )
        present = [part.data for part in parts if part is not None]
        return b"".join(present) if len(present) == count else None

    async def _store(self, subject: str, data: bytes, *fields: tuple[str, str]) -> None:
        try:
            await self._requests.publish(subject, data, header_block(("Nats-Msg-Id", subject), *fields))
        except Refused as error:
            message = f"the content {subject} was not taken: {error}"
            raise Transient(message) from error
