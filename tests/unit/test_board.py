"""The scheduler's board: what it knows of tasks and projects, from the log and from its own decisions."""

from __future__ import annotations

from pathlib import Path

from events.envelope import Envelope, Recorded
from events.kernel import Event
from events.project import ProjectAdded
from events.task import TaskCancelled
from events.task_state import TASK
from infra.memory.plumbing import Memory
from infra.snapshots import SnapshotFile
from services.scheduler.board import Board, BoardSnapshot
from services.scheduler.deciders import task as decider
from tests.unit.examples import NOW, settings, submit


def recorded(sequence: int, id: str, *events: Event, entity: str = "task", trace: str = "") -> Recorded:
    envelope = Envelope(
        id=f"d{sequence}", tenant="default", entity=entity, entity_id=id, time=NOW, events=events, trace=trace
    )
    return Recorded(sequence, envelope)


def submitted(number: int = 1) -> tuple[Event, ...]:
    given = TASK.initial(f"shop-{number}")
    return decider.submit(given, submit(), number=number, submission_id=f"s{number}", project=settings())


def test_board_holds_what_the_log_says() -> None:
    """And hands out the next number of a prefix."""
    board = Board()
    assert board.next_number("shop") == 1
    assert board.apply(recorded(1, "shop", ProjectAdded(settings=settings()), entity="project"))
    assert board.apply(recorded(2, "shop-7", *submitted(7)))
    assert board.projects["shop"].settings == settings()
    assert board.tasks["shop-7"].status == "queued"
    assert board.next_number("shop") == 8
    assert board.task_of_submission("s7") == "shop-7"
    assert board.sequence == 2


def test_own_decision_is_there_at_once_and_is_not_taken_twice() -> None:
    """When it comes back from the log it changes nothing; what others decided after it does."""
    board = Board()
    task = TASK.fold_onto(TASK.initial("shop-1"), submitted())
    board.put_task(task, 5)
    assert not board.apply(recorded(5, "shop-1", *submitted()))
    assert board.tasks["shop-1"] is task
    assert board.apply(recorded(6, "shop-1", TaskCancelled()))
    assert board.tasks["shop-1"].status == "cancelled"


def test_older_state_never_replaces_a_newer_one() -> None:
    """A decision may be put on the board later than what followed it."""
    board = Board()
    board.apply(recorded(1, "shop-1", *submitted()))
    before = board.tasks["shop-1"]
    board.apply(recorded(2, "shop-1", TaskCancelled()))
    board.put_task(before, 1)
    assert board.tasks["shop-1"].status == "cancelled"


def test_trace_of_a_submission_is_kept_for_what_follows() -> None:
    """Also where the board knew the decision before the log gave it back."""
    board = Board()
    board.put_task(TASK.fold_onto(TASK.initial("shop-1"), submitted()), 1)
    board.apply(recorded(1, "shop-1", *submitted(), trace="00-aa-bb-01"))
    board.apply(recorded(2, "shop-1", TaskCancelled(), trace="00-cc-dd-01"))
    assert board.traces == {"shop-1": "00-aa-bb-01"}


async def test_a_snapshot_spares_reading_what_was_read_before(tmp_path: Path) -> None:
    """A new board begins where the last one saved, and ends where one does that read everything."""
    log = Memory().log
    for number in (1, 2):
        envelope = recorded(0, f"shop-{number}", *submitted(number), trace="00-a-b-01").envelope
        await log.append(envelope, expected=0)
    snapshots = SnapshotFile(tmp_path / "board", BoardSnapshot)
    first = Board(snapshots)
    await first.load(log)
    first.save(least=1)
    revision = (await log.load("task", "shop-2"))[-1].sequence
    await log.append(recorded(9, "shop-2", TaskCancelled(reason="no")).envelope, expected=revision)
    second, whole = Board(snapshots), Board()
    await second.load(log)
    await whole.load(log)
    assert second.tasks == whole.tasks
    assert second.tasks["shop-2"].status == "cancelled"
    assert second.traces == {"shop-1": "00-a-b-01", "shop-2": "00-a-b-01"}
    assert second.sequence == whole.sequence
    assert second.next_number("shop") == 3
    assert second.task_of_submission("s1") == "shop-1"
