"""The projector over tables in memory, which outlive it as those of a database do.

``Projector`` and ``Store`` are the real ones but for their connection: what a batch changed is committed together with
the checkpoint, in one step that may fail, be the last one, or have its answer lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from events.envelope import Recorded
from events.errors import Transient
from projections import projector, store
from projections.fold import Changes
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
        self.tables.take(changes)
        self.sequence = changes.sequence


class Store(store.Store):
    def __init__(self, database: Database, process: Process) -> None:
        nothing: Any = None  # There is no connection.
        super().__init__(nothing, "", database.sequence)
        self._database = database
        self._process = process

    async def _load(self, records: Sequence[Recorded]) -> None:
        self._database.tables.load(self._rows, records)

    async def _save(self, changes: Changes, clean: Any) -> None:
        await self._process.call(("project", changes.sequence), lambda: self.commit(changes))

    async def commit(self, changes: Changes) -> None:
        self._database.commit(changes, self.sequence)


class Projector(projector.Projector):
    """One life of it; ``store`` gives it a store over what is there."""

    def __init__(self, log: Any, clock: Any, store: Callable[[], Store]) -> None:
        super().__init__(log, "", clock)
        self._store = store

    async def work(self) -> None:
        await self.keep_up(self, self._store())

    # ---- its own connection, which does not break

    def is_closed(self) -> bool:
        return False

    def add_termination_listener(self, callback: Callable[[Any], None]) -> None:
        """Nothing ends it."""

    def remove_termination_listener(self, callback: Callable[[Any], None]) -> None:
        """Nothing ends it."""
