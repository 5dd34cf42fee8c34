"""Tables in memory, written as the store writes them: rows go in as values and come out restored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from events.envelope import Recorded
from projections.fold import PROJECTIONS, Changes, Rows, fold, missing


class Tables:
    """``rows`` by table and id, ``entries`` and ``call_states`` as lists: all of them tuples of values."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, tuple[Any, ...]]] = {projection.table: {} for projection in PROJECTIONS}
        self.entries: list[tuple[Any, ...]] = []
        self.call_states: list[tuple[Any, ...]] = []

    def write(self, records: Iterable[Recorded]) -> None:
        """Fold one batch onto what is there, with nothing kept in memory from the one before."""
        batch = list(records)
        known: Rows = {projection: {} for projection in PROJECTIONS}
        self.load(known, batch)
        self.take(fold(known, batch))

    def load(self, known: Rows, records: Sequence[Recorded]) -> None:
        """Add the rows that the records touch and that are not known yet."""
        for projection, ids in missing(known, records).items():
            for id in ids:
                values = self.rows[projection.table].get(id)
                known[projection][id] = (
                    None if values is None else projection.restore(dict(zip(projection.columns, values, strict=True)))
                )

    def take(self, changes: Changes) -> None:
        """What a batch changed."""
        for projection, rows in changes.rows.items():
            self.rows[projection.table].update({id: projection.values(row) for id, row in rows.items()})
        self.entries += map(msgspec.structs.astuple, changes.entries)
        self.call_states += map(msgspec.structs.astuple, changes.call_states)

    def row(self, table: str, id: str) -> dict[str, Any]:
        projection = next(projection for projection in PROJECTIONS if projection.table == table)
        return dict(zip(projection.columns, self.rows[table][id], strict=True))
