"""Runs that their provider left without answers: the task waits, with a budget of its own."""

from __future__ import annotations

from events.task import RecordRunFailed, RecordRunSucceeded, RunFailureRecorded, TaskFailed
from events.task_state import TASK, Task
from services.scheduler.deciders import task as decider
from tests.unit.examples import NOW, RESULT, Story, settings, start, submit


def started_again(story: Story[Task]) -> Story[Task]:
    story.when(lambda task: decider.start_stage(task, start(), prompt="do it"))
    return story


def requested() -> Story[Task]:
    """A task whose first run is asked for."""
    story = Story(TASK, "shop-1")
    story.when(lambda task: decider.submit(task, submit(), number=1, submission_id="s1", project=settings()))
    return started_again(story)


def starve(
    story: Story[Task], *, transient: bool = True, retry_after: float = 0.0, jitter: float = 0.0
) -> float | None:
    """The run ends without answers of its provider; answers after how many seconds it is tried again."""
    run_id = story.state.stages["development"].position.run_id  # type: ignore[union-attr]
    command = RecordRunFailed(
        stage="development",
        run_id=run_id,
        cause="starved",
        detail="overloaded",
        transient=transient,
        retry_after_seconds=retry_after,
        jitter=jitter,
    )
    events = story.when(lambda task: decider.record_run_failed(task, command, now=NOW, retries=decider.Retries()))
    recorded = events[0]
    assert isinstance(recorded, RunFailureRecorded)
    return (recorded.retry_at - NOW).total_seconds() if recorded.retry_at is not None else None


def test_transient_failures_have_a_budget_of_their_own() -> None:
    """Five waits that double, apart from the attempts; then the task fails."""
    story = requested()
    waits = []
    while (seconds := starve(story)) is not None:
        waits.append(seconds)
        assert story.state.status == "queued"
        started_again(story)
    assert waits == [10, 20, 40, 80, 160]
    assert isinstance(story.state.ended, TaskFailed)


def test_transient_failures_count_against_no_attempt() -> None:
    """The agent's own failures still have theirs, and its success begins anew."""
    story = requested()
    starve(story)
    started_again(story)
    assert starve(story, transient=False) == 1
    started_again(story)
    assert starve(story) == 20
    started_again(story)
    run_id = story.state.stages["development"].position.run_id  # type: ignore[union-attr]
    done = RecordRunSucceeded(stage="development", run_id=run_id, result=RESULT)
    story.when(lambda task: decider.record_run_succeeded(task, done))
    assert (story.state.stages["development"].starved, story.state.stages["development"].failures) == (0, 0)


def test_transient_failure_leaves_nothing_to_mend() -> None:
    """What the agent is told of is what it can do something about; a person is told why it waits."""
    story = requested()
    starve(story)
    state = story.state.stages["development"]
    assert state.findings == ""
    assert state.position.reason == "The last attempt ended with starved: overloaded"  # type: ignore[union-attr]


def test_provider_is_left_alone_for_as_long_as_it_asks() -> None:
    """Retry-After is a floor, and chance only adds."""
    assert starve(requested(), retry_after=90.0) == 90
    assert starve(requested(), retry_after=5.0, jitter=1.0) == 12
