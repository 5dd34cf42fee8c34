"""What processes print, on its way to the output stream: redacted, in chunks, in order.

Each piece is in the stream before the next one is read from the shim's file. So a process may print faster than the
stream takes it: what waits is in that file, not in memory, and comes in larger pieces. Offsets are those of the file:
redaction keeps every length.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from events.errors import Transient
from infra.ports import OutputStore
from infra.redaction import RedactedStream, Redactor
from services.environment_manager.ports import OnOutput

logger = structlog.get_logger()

# More than one piece of the file and what redaction holds back of the one before, as a rule.
CHUNK_BYTES = 192 * 1024
RETRY_SECONDS = 1.0


class OutputWriter:
    def __init__(self, store: OutputStore) -> None:
        self._store = store

    @contextlib.asynccontextmanager
    async def of(self, run_id: str, call_id: str, redactor: Redactor) -> AsyncIterator[OnOutput]:
        """What takes the pieces that a call prints, from the first one on; at the end everything has been written."""
        pipe = _Pipe(self._store, run_id, call_id, redactor.stream())
        yield pipe.take
        await pipe.finish()


class _Pipe:
    def __init__(self, store: OutputStore, run_id: str, call_id: str, stream: RedactedStream) -> None:
        self._store = store
        self._run_id = run_id
        self._call_id = call_id
        self._stream = stream
        self._written_bytes = 0

    async def take(self, offset: int, data: bytes) -> None:
        await self._write(self._stream.feed(data))

    async def finish(self) -> None:
        await self._write(self._stream.flush())

    async def _write(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK_BYTES):
            chunk = data[start : start + CHUNK_BYTES]
            await self._write_chunk(chunk)
            self._written_bytes += len(chunk)

    async def _write_chunk(self, chunk: bytes) -> None:
        while True:
            try:
                return await self._store.write(self._run_id, self._call_id, self._written_bytes, chunk)
            except Transient as error:
                logger.warning("output waits", call=self._call_id, error=str(error))
                await asyncio.sleep(max(RETRY_SECONDS, error.delay_seconds))
