"""What is chosen where a run or a gate finds the world other than the log tells."""

from __future__ import annotations

import pytest

from events.errors import CommandRejected, Invalid
from events.kernel import replace
from events.task import (
    DivergenceReported,
    DivergenceResolved,
    RecordRunSucceeded,
    ReportDivergence,
    ResolveDivergence,
    TaskBlocked,
)
from events.task_state import TASK, Task
from services.scheduler.deciders import divergence as decider
from services.scheduler.deciders import task as task_decider
from tests.unit.examples import RESULT, Story, kinds, settings, start, submit

RUN, CHECK = "shop-1-development-1", "shop-1-test-1-check"


def report(id: str = RUN, number: int = 1) -> ReportDivergence:
    return ReportDivergence(
        run_id=id, divergence_id=f"{id}-d{number}", kind="workspace", expected="t1", found=f"t{number + 7}"
    )


def running(**project: object) -> Story[Task]:
    story = Story(TASK, "shop-1")
    story.when(
        lambda task: task_decider.submit(task, submit(), number=1, submission_id="s1", project=settings(**project))
    )
    story.when(lambda task: task_decider.start_stage(task, start(), prompt="p"))
    return story


def checking(**project: object) -> Story[Task]:
    story = running(**project)
    done = RecordRunSucceeded(stage="development", run_id=RUN, result=RESULT)
    story.when(lambda task: task_decider.record_run_succeeded(task, done))
    return story


def choose(story: Story[Task], choice: str, run: str = "") -> list[str]:
    command = ResolveDivergence(choice=choice, run_id=run)
    return kinds(story.when(lambda task: decider.resolve(task, command, by="ada")))


def test_run_that_diverged_makes_its_task_wait_until_somebody_chose() -> None:
    """Once; then the task runs again."""
    story = running()
    assert kinds(story.when(lambda task: decider.report(task, report()))) == ["DivergenceReported"]
    assert story.state.status == "diverged"
    assert choose(story, "accept") == ["DivergenceResolved"]
    assert story.state.status == "running"
    assert choose(story, "accept") == []
    with pytest.raises(CommandRejected) as refused:
        choose(story, "restore")
    assert refused.value.slug == "no-open-divergence"


def test_fork_goes_on_from_the_run_whose_work_is_meant() -> None:
    """A gate that waits has no run of its own: it is the one whose work it looks at."""
    story = running()
    (reported,) = story.when(lambda task: decider.report(task, report()))
    assert isinstance(reported, DivergenceReported)
    assert decider.run_to_fork(story.state, reported) == RUN
    story = checking()
    (reported,) = story.when(lambda task: decider.report(task, report(CHECK)))
    assert isinstance(reported, DivergenceReported)
    assert decider.run_to_fork(story.state, reported) == RUN
    carried = replace(story.state, stages={name: replace(it, attempt=0) for name, it in story.state.stages.items()})
    with pytest.raises(Invalid, match="restore, accept or abandon it"):
        decider.run_to_fork(carried, reported)


def test_choice_must_be_one_and_for_something_that_waits() -> None:
    """Otherwise it is said what is wrong."""
    story = running()
    with pytest.raises(CommandRejected, match="waits for no choice"):
        choose(story, "restore")
    story.when(lambda task: decider.report(task, report()))
    with pytest.raises(Invalid, match="no way out"):
        choose(story, "ignore")
    with pytest.raises(CommandRejected, match="another"):
        choose(story, "restore", "another")


def test_runs_that_nobody_asked_for_report_nothing() -> None:
    """Neither a run that is over nor one that never was; and what a run left open ends with it."""
    story = running()
    assert story.when(lambda task: decider.report(task, report("shop-1-development-9"))) == ()
    story.when(lambda task: decider.report(task, report()))
    story.when(
        lambda task: task_decider.record_run_succeeded(
            task, RecordRunSucceeded(stage="development", run_id=RUN, result=RESULT)
        )
    )
    assert story.state.divergences == ()


def test_policy_of_the_project_holds_for_gates_at_once() -> None:
    """Of a run its runner follows it, so that nothing is said here."""
    story = checking(on_divergence="restore")
    events = story.when(lambda task: decider.report(task, report(CHECK)))
    assert [type(event) for event in events] == [DivergenceReported, DivergenceResolved]
    ((check, choice),) = decider.to_carry_out(story.state)
    assert (check.check_id, choice) == (CHECK, "restore")


def test_gate_waits_for_a_person_too() -> None:
    """What is chosen is carried out until the check has ended; given up, the task is blocked."""
    story = checking()
    story.when(lambda task: decider.report(task, report(CHECK)))
    assert story.state.status == "diverged"
    assert decider.to_carry_out(story.state) == []
    assert choose(story, "accept") == ["DivergenceResolved"]
    assert len(decider.to_carry_out(story.state)) == 1
    given_up = checking()
    given_up.when(lambda task: decider.report(task, report(CHECK)))
    assert choose(given_up, "abandon") == ["DivergenceResolved", "TaskBlocked"]
    assert isinstance(given_up.state.ended, TaskBlocked)
    assert replace(given_up.state.ended, detail="") == TaskBlocked(stage="test", cause="diverged")
