"""Snapshots: what was saved comes back, and everything that does not fit is as if there were none."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from immutables import Map

from events.environment import ENVIRONMENT, Environment, ToolCallCompleted
from events.task_state import TASK, Task
from infra.snapshots import SnapshotFile
from services.scheduler.deciders import task as decider
from tests.unit.examples import settings, start, submit

MADE = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 2, tzinfo=UTC)


def _running_task() -> Task:
    task = TASK.initial("shop-1")
    task = TASK.fold_onto(task, decider.submit(task, submit(), number=1, submission_id="s", project=settings()))
    return TASK.fold_onto(task, decider.start_stage(task, start(), prompt="do it"))


def test_gives_back_what_was_saved(tmp_path: Path) -> None:
    """A task in the middle of a run, with its sequence."""
    file = SnapshotFile(tmp_path / "snapshots" / "task", Task)
    file.save(_running_task(), created_at=MADE, sequence=7)
    assert file.load(created_at=MADE, last_sequence=9) == (_running_task(), 7)


def test_keeps_persistent_maps(tmp_path: Path) -> None:
    """An environment's ended calls are a map that msgspec does not know."""
    ended = ToolCallCompleted(call_id="c1", run_id="r", tool="shell", duration_ms=1)
    environment = ENVIRONMENT.fold("e", [ended])
    file = SnapshotFile(tmp_path / "environment", Environment)
    file.save(environment, created_at=MADE, sequence=1)
    loaded = file.load(created_at=MADE, last_sequence=1)
    assert loaded is not None
    assert loaded[0].ended == Map({"c1": "completed"})
    assert loaded[0].ended.set("c2", "failed")["c2"] == "failed"


@pytest.mark.parametrize(("created_at", "last_sequence"), [(LATER, 9), (MADE, 6)])
def test_another_log_has_no_snapshot(tmp_path: Path, created_at: datetime, last_sequence: int) -> None:
    """One that was made anew, or that is shorter than what was folded."""
    file = SnapshotFile(tmp_path / "task", Task)
    file.save(_running_task(), created_at=MADE, sequence=7)
    assert file.load(created_at=created_at, last_sequence=last_sequence) is None


def test_torn_or_foreign_files_are_ignored(tmp_path: Path) -> None:
    """Whatever lies there in its place."""
    path = tmp_path / "task"
    file = SnapshotFile(path, Task)
    assert file.load(created_at=MADE, last_sequence=9) is None
    file.save(_running_task(), created_at=MADE, sequence=7)
    path.write_bytes(path.read_bytes()[:-5])
    assert file.load(created_at=MADE, last_sequence=9) is None
    path.write_bytes(b"junk")
    assert file.load(created_at=MADE, last_sequence=9) is None


def test_other_code_ignores_it(tmp_path: Path) -> None:
    """A snapshot of another version may mean something else."""
    path = tmp_path / "task"
    file = SnapshotFile(path, Task)
    file.save(_running_task(), created_at=MADE, sequence=7)
    data = path.read_bytes()
    length = int.from_bytes(data[:4], "big")
    code, *rest = msgspec.msgpack.decode(data[4 : 4 + length])
    header = msgspec.msgpack.encode([code[::-1], *rest])
    path.write_bytes(len(header).to_bytes(4, "big") + header + data[4 + length :])
    assert file.load(created_at=MADE, last_sequence=9) is None


def test_a_full_disk_costs_nothing_but_time(tmp_path: Path) -> None:
    """Where it cannot be written, work goes on."""
    (tmp_path / "file").write_text("not a folder")
    SnapshotFile(tmp_path / "file" / "task", Task).save(_running_task(), created_at=MADE, sequence=7)
