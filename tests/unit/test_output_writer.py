"""What processes print on its way to the output stream: masked, in order, nothing kept in memory."""

from __future__ import annotations

import pytest

from events.errors import Permanent, Transient
from infra.clock import SystemClock
from infra.memory.stores import MemoryOutputStore
from infra.redaction import Redactor
from services.environment_manager.output import CHUNK_BYTES, OutputWriter

SECRET = "correct-horse-battery"


class FlinchingStore(MemoryOutputStore):
    """Fails with each of ``errors`` before it takes anything."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__(SystemClock())
        self._errors = list(errors)

    async def write(self, run_id: str, call_id: str, offset: int, data: bytes) -> None:
        if self._errors:
            raise self._errors.pop(0)
        await super().write(run_id, call_id, offset, data)


async def written(store: MemoryOutputStore, *pieces: bytes) -> bytes:
    """What is in the stream after a call has printed ``pieces``."""
    reached = 0
    async with OutputWriter(store).of("run", "call", Redactor([SECRET])) as take:
        for piece in pieces:
            await take(reached, piece)
            reached += len(piece)
    text = b""
    for chunk in store.chunks("run"):
        assert chunk.offset == len(text)
        assert 0 < len(chunk.data) <= CHUNK_BYTES
        text += chunk.data
    return text


async def test_a_secret_in_pieces_is_masked() -> None:
    """However the pieces fall, and to the end of what was printed."""
    text = f"a {SECRET} b {SECRET}".encode()
    for size in range(1, len(text)):
        pieces = (text[start : start + size] for start in range(0, len(text), size))
        expected = text.replace(SECRET.encode(), b"*" * len(SECRET))
        assert await written(MemoryOutputStore(SystemClock()), *pieces) == expected


async def test_a_piece_is_in_the_stream_before_the_next_one_is_taken() -> None:
    """So nothing has to be kept in memory."""
    store = MemoryOutputStore(SystemClock())
    async with OutputWriter(store).of("run", "call", Redactor()) as take:
        for count in range(1, 4):
            await take(0, b"a line\n")
            assert len(store.chunks("run")) == count


async def test_large_pieces_are_cut() -> None:
    """The stream takes chunks of at most 256 KiB."""
    piece = b"0123456\n" * 100_000
    assert await written(MemoryOutputStore(SystemClock()), piece) == piece


async def test_waits_for_a_stream_that_flinches() -> None:
    """Nothing is lost, nothing comes twice."""
    store = FlinchingStore(Transient("away", delay_seconds=0.01))
    assert await written(store, b"one\n", b"two\n") == b"one\ntwo\n"


async def test_tells_of_a_stream_that_refuses() -> None:
    """What will not pass by itself is not waited for."""
    with pytest.raises(Permanent):
        await written(FlinchingStore(Permanent("no such stream")), b"one\n")
