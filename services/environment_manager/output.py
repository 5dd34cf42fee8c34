"""What processes print, on its way to the output stream: redacted, joined into chunks, in order.

A process may print faster than the stream takes it: what waits is joined into larger chunks, and nothing is lost,
because the shim's file holds it all. Offsets are those of the file: redaction keeps every length.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import structlog

from events.errors import Transient
from infra.ports import OutputStore
from infra.redaction import RedactedStream, Redactor

logger = structlog.get_logger()

CHUNK_BYTES = 128 * 1024
RETRY_SECONDS = 1.0


class OutputWriter:
    def __init__(self, store: OutputStore) -> None:
        self._store = store

    @contextlib.asynccontextmanager
    async def of(self, run_id: str, call_id: str, redactor: Redactor) -> AsyncIterator[Callable[[int, bytes], None]]:
        """A function that takes ``(offset, data)`` as a call prints; at the end everything has been written."""
        pipe = _Pipe(self._store, run_id, call_id, redactor.stream())
        writing = asyncio.create_task(pipe.run())
        try:
            yield pipe.take
            pipe.finish()
            await writing
        finally:
            writing.cancel()


class _Pipe:
    def __init__(self, store: OutputStore, run_id: str, call_id: str, stream: RedactedStream) -> None:
        self._store = store
        self._run_id = run_id
        self._call_id = call_id
        self._stream = stream
        self._waiting = bytearray()
        self._written_bytes = 0
        self._finished = False
        self._wake = asyncio.Event()

    def take(self, offset: int, data: bytes) -> None:
        self._waiting += self._stream.feed(data)
        self._wake.set()

    def finish(self) -> None:
        self._waiting += self._stream.flush()
        self._finished = True
        self._wake.set()

    async def run(self) -> None:
        while True:
            while self._waiting:
                chunk = bytes(self._waiting[:CHUNK_BYTES])
                await self._write(chunk)
                del self._waiting[: len(chunk)]
                self._written_bytes += len(chunk)
            if self._finished:
                return
            self._wake.clear()
            if not self._waiting:
                await self._wake.wait()

    async def _write(self, chunk: bytes) -> None:
        while True:
            try:
                return await self._store.write(self._run_id, self._call_id, self._written_bytes, chunk)
            except Transient as error:
                logger.warning("output waits", call=self._call_id, error=str(error))
                await asyncio.sleep(max(RETRY_SECONDS, error.delay_seconds))
