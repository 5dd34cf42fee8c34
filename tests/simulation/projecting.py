"""The projector over tables in memory, which outlive it as those of a database do.

``Projector`` is the real one but for its connection; ``Store`` is a twin of ``projections.store.Store``: rows as they
were last written are kept in the process, and what a batch changed is committed together with the checkpoint, in one
step that may fail, be the last one, or have its answer lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from events.envelope import Recorded
from events.errors import Transient
from projections import projector
from projections.fold import PROJECTIONS, Changes, Rows, fold, missing
from tests.projections.tables import Tables
from tests.simulation.network import Process


class Database:
    """``tables`` as they were committed last, and the ``sequence`` of the last decision in them."""

    def __init__(self) -> None:
        self.tables = Tables()
        self.sequence = 0

    def commit(self, changes: Changes, after: int) -> None:
        """Take what a batch changed, if these are the tables that it was folded onto."""
        if self.sequence != after:
            message = "another projector writes the same read models"
            raise Transient(message)
        self.write(changes)
        self.sequence = changes.sequence

    def write(self, changes: Changes) -> None:
        for projection, rows in changes.rows.items():
            self.tables.rows[projection.table].update({id: projection.values(row) for id, row in rows.items()})
        self.tables.entries += map(msgspec.structs.astuple, changes.entries)
        self.tables.call_states += map(msgspec.structs.astuple, changes.call_states)


class Store:
    def __init__(self, database: Database, process: Process) -> None:
        self.sequence = database.sequence
        self._database = database
        self._process = process
        self._rows: Rows = {projection: {} for projection in PROJECTIONS}

    async def write(self, records: Sequence[Recorded]) -> None:
        if not records:
            return
        for projection, ids in missing(self._rows, records).items():
            rows = self._database.tables.rows[projection.table]
            for id in ids:
                found = rows.get(id)
                values = None if found is None else dict(zip(projection.columns, found, strict=True))
                self._rows[projection][id] = None if values is None else projection.restore(values)
        changes = fold(self._rows, records)
        await self._process.call(("project", changes.sequence), lambda: self.commit(changes))
        self.sequence = changes.sequence

    async def commit(self, changes: Changes) -> None:
        self._database.commit(changes, self.sequence)


class Projector(projector.Projector):
    """One life of it; ``store`` gives it a store over what is there."""

    def __init__(self, log: Any, clock: Any, store: Callable[[], Store]) -> None:
        super().__init__(log, "", clock)
        self._store = store

    async def work(self) -> None:
        await self.keep_up(self, self._store())  # type: ignore[arg-type]

    # ---- its own connection, which does not break

    def is_closed(self) -> bool:
        return False

    def add_termination_listener(self, callback: Callable[[Any], None]) -> None:
        """Nothing ends it."""

    def remove_termination_listener(self, callback: Callable[[Any], None]) -> None:
        """Nothing ends it."""
