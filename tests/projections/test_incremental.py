"""However the log is cut into batches, the read models come out the same."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from events.codec import decode_event, encode
from events.envelope import Recorded
from tests.projections.histories import histories
from tests.projections.tables import Tables


@settings(deadline=None)
@given(history=histories, sizes=st.lists(st.integers(1, 9), min_size=1))
def test_incremental_equals_rebuilt(history: list[Recorded], sizes: list[int]) -> None:
    """Folding in batches of any size, each from the rows as they were written, gives what folding at once gives."""
    rebuilt, incremental = Tables(), Tables()
    rebuilt.write(history)
    start = 0
    while start < len(history):
        size = sizes[start % len(sizes)]
        incremental.write(history[start : start + size])
        start += size
    assert incremental.rows == rebuilt.rows
    assert incremental.entries == rebuilt.entries
    assert incremental.call_states == rebuilt.call_states


@settings(deadline=None)
@given(history=histories)
def test_what_was_written_reads_the_same(history: list[Recorded]) -> None:
    """A history that went through the codec gives the rows that the original gives."""
    original, read = Tables(), Tables()
    original.write(history)
    read.write(Recorded(record.sequence, decode_event(encode(record.envelope))) for record in history)
    assert read.rows == original.rows
