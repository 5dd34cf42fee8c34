"""Snapshots of a long run's history, on its host: whoever takes the run again folds only what came since the last."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from events.lineage import ForkedFrom
from events.run import Run
from infra.entities import EntityStore
from infra.ports import EventLog
from infra.snapshots import SnapshotFile
from services.agent_runner.history import History, HistorySnapshot
from services.agent_runner.watch import Watch

STEPS_BETWEEN = 500


class RunSnapshots:
    """Those of one run. ``directory`` is None where none are kept."""

    def __init__(self, run_id: str, directory: Path | None) -> None:
        self._run_id = run_id
        self._file = SnapshotFile(directory / run_id, HistorySnapshot) if directory is not None else None
        self._created_at: datetime | None = None
        self._kept_steps = 0

    async def load(
        self, history: History, runs: EntityStore[Run], log: EventLog, watch: Watch, forked_from: ForkedFrom | None
    ) -> None:
        """Fill ``history`` and ``runs``: from the last snapshot, if there is one, and from what came since."""
        snapshot = await self._last(log)
        own = await history.load(log, watch, forked_from, snapshot)
        if snapshot is not None:
            runs.put(self._run_id, snapshot.run, snapshot.revision)
        run, _ = runs.apply(self._run_id, own)
        self._kept_steps = snapshot.run.steps if snapshot is not None else 0
        self.keep(history, run, runs)

    def keep(self, history: History, run: Run, runs: EntityStore[Run]) -> None:
        """Make a new one, where enough steps were taken since the last."""
        if self._file is None or self._created_at is None or run.steps < self._kept_steps + STEPS_BETWEEN:
            return
        kept = runs.peek(self._run_id)
        if kept is not None:
            self._kept_steps = run.steps
            self._file.save(history.snapshot(*kept), created_at=self._created_at, sequence=kept[1])

    def remove(self) -> None:
        if self._file is not None:
            self._file.remove()

    async def _last(self, log: EventLog) -> HistorySnapshot | None:
        if self._file is None:
            return None
        self._created_at = await log.created_at()
        found = self._file.load(created_at=self._created_at, last_sequence=await log.last_sequence())
        return found[0] if found is not None else None
