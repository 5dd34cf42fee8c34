"""What processes print: raw chunks on the run's subject, the call and the offset in headers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from events import subjects
from events.errors import Transient
from infra.jetstream.direct import read_all
from infra.jetstream.pull import Follower
from infra.jetstream.requests import Refused, Requests, checked_subject, header_block, header_value
from infra.ports import OutputChunk

logger = logging.getLogger("cairn.jetstream")

PAGE = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class JetStreamOutputStore:
    def __init__(self, requests: Requests, tenant: str) -> None:
        self._requests = requests
        self._tenant = tenant

    async def write(self, run_id: str, call_id: str, offset: int, data: bytes) -> None:
        headers = header_block(
            # The length belongs to the id: a restarted writer may send a longer piece from the same offset.
            ("Nats-Msg-Id", f"{self._tenant}:{call_id}:{offset}:{len(data)}"),
            ("Cairn-Call", call_id),
            ("Cairn-Offset", str(offset)),
        )
        try:
            await self._requests.publish(self._subject(run_id), data, headers)
        except Refused as error:
            message = f"the output of {call_id} was not taken: {error}"
            raise Transient(message) from error

    async def read(self, run_id: str, *, after: int = 0) -> list[OutputChunk]:
        found = await read_all(self._requests, subjects.OUTPUT, self._subject(run_id), after=after, limit=PAGE)
        chunks = (_chunk(item.sequence, item.stored_at, item.headers, item.data) for item in found)
        return [chunk for chunk in chunks if chunk is not None]

    async def follow(self, run_id: str, deliver: Callable[[OutputChunk], None], *, after: int = 0) -> Follower:
        def receive(sequence: int, time: int, left: int, headers: bytes, data: bytes) -> None:
            chunk = _chunk(sequence, _EPOCH + timedelta(microseconds=time // 1000), headers, data)
            if chunk is not None:
                deliver(chunk)

        follower = Follower(self._requests, subjects.OUTPUT, [self._subject(run_id)], receive, after=after)
        await follower.start()
        return follower

    def _subject(self, run_id: str) -> str:
        return checked_subject(subjects.output(self._tenant, run_id))


def _chunk(sequence: int, time: datetime, headers: bytes, data: bytes) -> OutputChunk | None:
    call_id, offset = header_value(headers, b"Cairn-Call"), header_value(headers, b"Cairn-Offset")
    if not call_id or not offset.isdigit():
        logger.warning("message %d of %s is skipped: it is no output", sequence, subjects.OUTPUT)
        return None
    return OutputChunk(sequence=sequence, time=time, call_id=call_id, offset=int(offset), data=data)
