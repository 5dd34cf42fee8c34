"""The life of a task, stage by stage: given what happened, when something is said, then this follows."""

from __future__ import annotations

from datetime import timedelta

import pytest

from events.errors import CommandRejected, Invalid, NotFound
from events.pipeline import Pipeline, PullRequestGate, Stage, TestsGate, checked
from events.task import (
    AnswerQuestion,
    ApproveStage,
    AskQuestion,
    CancelTask,
    CheckRequested,
    RecordCheck,
    RecordRunFailed,
    RecordRunSucceeded,
    RejectStage,
    RunRequested,
    StageResult,
    StageRolledBack,
)
from events.task_state import TASK, Task
from services.scheduler.deciders import task as decider
from tests.unit.examples import NOW, RESULT, Story, kinds, settings, start, submit

BRANCHING = checked(
    Pipeline(
        name="branching",
        stages=(
            Stage(name="plan", role="architect"),
            Stage(name="api", needs=("plan",), role="developer"),
            Stage(name="page", needs=("plan",), role="developer"),
            Stage(name="join", needs=("api", "page"), role="developer", gate=TestsGate(), rollback_to="join"),
            Stage(name="accept", needs=("join",), approval=True),
            Stage(name="publish", needs=("accept",), gate=PullRequestGate()),
        ),
    )
)


def submitted(**changes: object) -> Story[Task]:
    story = Story(TASK, "shop-1")
    project = settings(**changes)  # type: ignore[arg-type]
    story.when(lambda task: decider.submit(task, submit(), number=1, submission_id="s1", project=project))
    return story


def begin(story: Story[Task], stage: str = "development") -> RunRequested:
    events = story.when(lambda task: decider.start_stage(task, start(stage), prompt="do it"))
    (request,) = events
    assert isinstance(request, RunRequested)
    return request


def succeed(story: Story[Task], stage: str = "development", commit: str = "c0ffee") -> list[str]:
    run_id = story.state.stages[stage].position.run_id  # type: ignore[union-attr]
    result = StageResult(
        environment_id=f"{story.state.id}-{stage}", host="here", commit=commit, summary=f"{stage} done"
    )
    command = RecordRunSucceeded(stage=stage, run_id=run_id, result=result)
    return kinds(story.when(lambda task: decider.record_run_succeeded(task, command)))


def fail(story: Story[Task], *, retryable: bool = True, stage: str = "development") -> list[str]:
    run_id = story.state.stages[stage].position.run_id  # type: ignore[union-attr]
    command = RecordRunFailed(stage=stage, run_id=run_id, cause="crashed", detail="exit 1", retryable=retryable)
    return kinds(
        story.when(
            lambda task: decider.record_run_failed(task, command, now=NOW, retries=decider.Retries(delay_seconds=2.0))
        )
    )


def check(story: Story[Task], stage: str, passed: bool | None, commit: str = "") -> list[str]:
    check_id = story.state.stages[stage].position.check_id  # type: ignore[union-attr]
    command = RecordCheck(
        stage=stage, check_id=check_id, passed=passed, summary=f"said {passed}", detail="output", commit=commit
    )
    return kinds(story.when(lambda task: decider.record_check(task, command)))


def test_goes_through_development_test_and_publish() -> None:
    """The built-in pipeline, with nothing going wrong."""
    story = submitted()
    assert story.state.status == "queued"
    request = begin(story)
    assert (request.run_id, request.environment_id, request.attempt) == (
        "shop-1-development-1",
        "shop-1-development",
        1,
    )
    assert story.state.status == "running"
    assert succeed(story) == ["RunRecorded", "StagePassed", "CheckRequested"]
    gate = story.history[-1]
    assert isinstance(gate, CheckRequested)
    assert (gate.kind, gate.command, gate.environment_id, gate.host) == (
        "tests",
        "make test",
        "shop-1-development",
        "here",
    )
    assert check(story, "test", True) == ["GatePassed", "StagePassed", "CheckRequested"]
    publish = story.history[-1]
    assert isinstance(publish, CheckRequested)
    assert (publish.kind, publish.commit) == ("pull_request", "c0ffee")
    assert check(story, "publish", True, commit="beef") == ["GatePassed", "StagePassed", "TaskCompleted"]
    assert story.state.status == "completed"
    assert story.state.stages["publish"].result.commit == "beef"
    assert story.state.requests == {}


def test_repeated_commands_decide_nothing() -> None:
    """Whatever is said twice is decided once."""
    story = submitted()
    project = settings()
    assert story.when(lambda task: decider.submit(task, submit(), number=1, submission_id="s1", project=project)) == ()
    begin(story)
    assert story.when(lambda task: decider.start_stage(task, start(), prompt="do it")) == ()
    command = RecordRunSucceeded(stage="development", run_id="shop-1-development-1", result=RESULT)
    assert story.when(lambda task: decider.record_run_succeeded(task, command))
    assert story.when(lambda task: decider.record_run_succeeded(task, command)) == ()
    answer = RecordCheck(stage="test", check_id="shop-1-test-1-check", passed=True, summary="ok")
    assert story.when(lambda task: decider.record_check(task, answer))
    assert story.when(lambda task: decider.record_check(task, answer)) == ()


def test_failed_gate_goes_back_with_findings_until_the_limit() -> None:
    """Rework is counted; past the limit a person has to look."""
    story = submitted()
    for rework in (1, 2, 3):
        begin(story)
        succeed(story)
        assert check(story, "test", False) == ["GateRefused", "StageRolledBack"]
        back = story.history[-1]
        assert isinstance(back, StageRolledBack)
        assert (back.to, back.rework) == ("development", rework)
        assert "output" in story.state.stages["development"].findings
    begin(story)
    succeed(story)
    assert check(story, "test", False) == ["GateRefused", "TaskBlocked"]
    assert story.state.status == "blocked"


def test_rework_gets_a_new_run_in_the_same_environment() -> None:
    """Run ids are never used again; the workspace is."""
    story = submitted()
    first = begin(story)
    succeed(story)
    check(story, "test", False)
    second = begin(story)
    assert second.run_id == "shop-1-development-2"
    assert second.environment_id == first.environment_id


def test_failed_run_is_tried_again_and_then_fails_for_good() -> None:
    """Two attempts for faults of the code; the second failure ends the task."""
    story = submitted()
    begin(story)
    assert fail(story) == ["RunFailureRecorded"]
    assert story.state.stages["development"].position.retry_at == NOW + timedelta(seconds=2)  # type: ignore[union-attr]
    begin(story)
    assert fail(story) == ["RunFailureRecorded", "TaskFailed"]
    assert story.state.status == "failed"


def test_a_crash_does_not_count_as_rework() -> None:
    """Only a gate's or a person's no is rework."""
    story = submitted()
    begin(story)
    fail(story)
    begin(story)
    succeed(story)
    assert story.state.stages["test"].rework == 0
    check(story, "test", False)
    assert story.state.stages["test"].rework == 1
    assert story.state.stages["development"].failures == 0


def test_failure_that_cannot_be_helped_is_not_tried_again() -> None:
    """Bad credentials stay bad."""
    story = submitted()
    begin(story)
    assert fail(story, retryable=False) == ["RunFailureRecorded", "TaskFailed"]


def test_gate_that_cannot_be_evaluated_never_advances() -> None:
    """It is asked three times, then the task is blocked."""
    story = submitted()
    begin(story)
    succeed(story)
    assert check(story, "test", None) == ["GateUnevaluated", "CheckRequested"]
    assert check(story, "test", None) == ["GateUnevaluated", "CheckRequested"]
    assert check(story, "test", None) == ["GateUnevaluated", "TaskBlocked"]


def test_without_a_test_command_the_gate_has_nothing_to_ask() -> None:
    """A project without tests goes straight on to publish."""
    story = submitted(test_command="")
    begin(story)
    assert succeed(story) == ["RunRecorded", "StagePassed", "StagePassed", "CheckRequested"]


def test_branches_run_in_parallel_and_join() -> None:
    """A merge point waits for every branch and starts from all their commits."""
    story = submitted(pipeline=BRANCHING)
    begin(story, "plan")
    succeed(story, "plan", "c1")
    assert [stage.name for stage in story.state.ready_stages()] == ["api", "page"]
    api, page = begin(story, "api"), begin(story, "page")
    assert api.bases == page.bases == ("c1",)
    assert api.environment_id != page.environment_id
    succeed(story, "api", "c2")
    assert story.state.ready_stages() == []
    succeed(story, "page", "c3")
    join = begin(story, "join")
    assert join.bases == ("c2", "c3")
    assert succeed(story, "join", "c4") == ["RunRecorded", "CheckRequested"]
    assert check(story, "join", True) == ["GatePassed", "StagePassed", "ApprovalRequested"]
    assert story.state.status == "in_review"
    approved = kinds(story.when(lambda task: decider.approve(task, ApproveStage(stage="accept"), by="ada")))
    assert approved == ["StageApproved", "StagePassed", "CheckRequested"]
    assert story.history[-1].commit == "c4"  # type: ignore[attr-defined]


def test_rejection_goes_back_one_stage() -> None:
    """A person's no leads back to what the stage needs, and everything after it runs again."""
    story = submitted(pipeline=BRANCHING)
    for stage in ("plan", "api", "page", "join"):
        begin(story, stage)
        succeed(story, stage)
    check(story, "join", True)
    command = RejectStage(stage="accept", reason="too slow")
    assert kinds(story.when(lambda task: decider.reject(task, command, by="ada"))) == [
        "StageRejected",
        "StageRolledBack",
    ]
    assert [stage.name for stage in story.state.ready_stages()] == ["join"]
    assert story.state.stages["join"].findings == "too slow"


def test_approval_where_none_is_asked_for_is_refused() -> None:
    """The message names the stage and where it stands."""
    story = submitted()
    with pytest.raises(CommandRejected, match="does not wait for approval"):
        story.when(lambda task: decider.approve(task, ApproveStage(stage="test"), by="ada"))
    with pytest.raises(NotFound, match="no stage 'tset'"):
        story.when(lambda task: decider.approve(task, ApproveStage(stage="tset"), by="ada"))


def test_cancelled_task_takes_no_results() -> None:
    """What arrives late from a run of an ended task changes nothing."""
    story = submitted()
    begin(story)
    assert kinds(story.when(lambda task: decider.cancel(task, CancelTask(reason="changed my mind")))) == [
        "TaskCancelled"
    ]
    assert story.when(lambda task: decider.cancel(task, CancelTask())) == ()
    command = RecordRunSucceeded(stage="development", run_id="shop-1-development-1", result=RESULT)
    assert story.when(lambda task: decider.record_run_succeeded(task, command)) == ()
    assert story.state.status == "cancelled"


def test_retry_opens_a_blocked_task_where_its_gate_leads_back() -> None:
    """Attempts and rework count from zero, and the agent is told why."""
    story = submitted(pipeline=settings().pipeline)
    for _ in range(4):
        begin(story)
        succeed(story)
        check(story, "test", False)
    assert story.state.status == "blocked"
    assert kinds(story.when(decider.retry)) == ["TaskReopened"]
    assert [stage.name for stage in story.state.ready_stages()] == ["development"]
    assert story.state.stages["test"].rework == 0
    assert "rework-limit" in story.state.stages["development"].findings


def test_retry_of_a_task_that_goes_on_is_refused() -> None:
    """There is nothing to try again."""
    story = submitted()
    with pytest.raises(CommandRejected, match="has not ended"):
        story.when(decider.retry)
    with pytest.raises(NotFound):
        decider.retry(TASK.initial("shop-9"))


def test_question_is_asked_and_answered_once() -> None:
    """The task needs input until the answer is there; a second answer is refused."""
    story = submitted()
    begin(story)
    ask = AskQuestion(run_id="shop-1-development-1", call_id="c1", question="Which currency?")
    assert kinds(story.when(lambda task: decider.ask(task, ask))) == ["QuestionAsked"]
    assert story.when(lambda task: decider.ask(task, ask)) == ()
    assert story.state.status == "needs_input"
    assert kinds(story.when(lambda task: decider.answer(task, AnswerQuestion(answer="EUR")))) == ["QuestionAnswered"]
    assert story.state.status == "running"
    assert story.when(lambda task: decider.answer(task, AnswerQuestion(answer="EUR"))) == ()
    with pytest.raises(CommandRejected, match="no open question"):
        story.when(lambda task: decider.answer(task, AnswerQuestion(answer="USD")))


def test_several_open_questions_must_be_told_apart() -> None:
    """An answer without a call id is refused where it is not clear what it answers."""
    story = submitted(pipeline=BRANCHING)
    begin(story, "plan")
    for call in ("c1", "c2"):
        command = AskQuestion(run_id="shop-1-plan-1", call_id=call, question="?")
        story.when(lambda task, command=command: decider.ask(task, command))  # type: ignore[misc]
    with pytest.raises(Invalid, match="c1, c2"):
        story.when(lambda task: decider.answer(task, AnswerQuestion(answer="yes")))


def test_a_task_without_a_title_is_refused() -> None:
    """The message says what to do."""
    with pytest.raises(Invalid, match="needs a title"):
        decider.submit(TASK.initial("shop-1"), submit("  "), number=1, submission_id="s", project=settings())


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((), "0 stages"),
        ((Stage(name="a", role="x"), Stage(name="a", role="x")), "twice"),
        ((Stage(name="a", needs=("b",), role="x"), Stage(name="b", needs=("a",), role="x")), "a → b → a"),
        ((Stage(name="a", needs=("c",), role="x"),), "names 'c'"),
        ((Stage(name="a"),), "would do nothing"),
        ((Stage(name="a", gate=TestsGate()),), "nothing to check"),
        ((Stage(name="a", role="x", rollback_to="b"), Stage(name="b", needs=("a",), role="x")), "does not come before"),
        (
            (
                Stage(name="a", role="x"),
                Stage(name="b", role="x"),
                Stage(name="c", needs=("a", "b"), gate=TestsGate()),
            ),
            "give it a role",
        ),
        ((Stage(name="1a", role="x"),), "cannot name a stage"),
    ],
)
def test_impossible_pipelines_are_refused(stages: tuple[Stage, ...], message: str) -> None:
    """Each with the stage and the rule that it breaks."""
    with pytest.raises(Invalid, match=message):
        checked(Pipeline(name="p", stages=stages))


def test_stages_are_put_in_order() -> None:
    """A pipeline may be written in any order."""
    pipeline = checked(Pipeline(name="p", stages=(Stage(name="b", needs=("a",), role="x"), Stage(name="a", role="x"))))
    assert [stage.name for stage in pipeline.stages] == ["a", "b"]


PARALLEL = checked(
    Pipeline(
        name="parallel",
        stages=(
            Stage(name="plan", role="architect"),
            Stage(name="api", needs=("plan",), role="developer", gate=TestsGate(), rollback_to="plan"),
            Stage(name="page", needs=("plan",), role="developer"),
        ),
    )
)


def test_going_back_gives_up_what_the_other_branches_do() -> None:
    """The run of a parallel branch is asked for no more, nor its question, and its late result changes nothing."""
    story = submitted(pipeline=PARALLEL)
    begin(story, "plan")
    succeed(story, "plan")
    begin(story, "api")
    page = begin(story, "page")
    ask = AskQuestion(run_id=page.run_id, call_id="c1", question="Which colour?")
    story.when(lambda task: decider.ask(task, ask))
    succeed(story, "api")
    assert check(story, "api", False) == ["GateRefused", "StageRolledBack"]
    assert story.state.requests == {}
    assert story.state.status == "queued"
    late = RecordRunSucceeded(stage="page", run_id=page.run_id, result=RESULT)
    assert story.when(lambda task: decider.record_run_succeeded(task, late)) == ()


def test_going_back_to_a_stage_without_an_agent_goes_on_by_itself() -> None:
    """Nobody places such a stage: its gate is asked again at once."""
    stages = (
        Stage(name="work", role="developer"),
        Stage(name="test", needs=("work",), gate=TestsGate()),
        Stage(name="publish", needs=("test",), gate=PullRequestGate(), rollback_to="test"),
    )
    story = submitted(pipeline=checked(Pipeline(name="p", stages=stages)))
    begin(story, "work")
    succeed(story, "work")
    check(story, "test", True)
    assert check(story, "publish", False) == ["GateRefused", "StageRolledBack", "CheckRequested"]
    assert story.history[-1].check_id == "shop-1-test-2-check"  # type: ignore[attr-defined]


def test_rejection_leads_to_the_agent_whose_work_was_looked_at() -> None:
    """To ask the gate in between once more would lead nowhere."""
    stages = (
        Stage(name="work", role="developer"),
        Stage(name="test", needs=("work",), gate=TestsGate()),
        Stage(name="accept", needs=("test",), approval=True),
    )
    story = submitted(pipeline=checked(Pipeline(name="p", stages=stages)))
    begin(story, "work")
    succeed(story, "work")
    check(story, "test", True)
    story.when(lambda task: decider.reject(task, RejectStage(stage="accept", reason="too slow"), by="ada"))
    assert [stage.name for stage in story.state.ready_stages()] == ["work"]
    assert story.state.stages["work"].findings == "too slow"


def test_repeated_retry_decides_nothing() -> None:
    """However far the task has come by then; one that ends again can be opened again."""
    story = submitted()
    begin(story)
    fail(story, retryable=False)
    assert kinds(story.when(decider.retry)) == ["TaskReopened"]
    assert story.when(decider.retry) == ()
    begin(story)
    assert story.when(decider.retry) == ()
    fail(story, retryable=False)
    assert kinds(story.when(decider.retry)) == ["TaskReopened"]


def test_block_says_what_the_gate_said() -> None:
    """Who looks at the task, and the agent that tries again, need the output of the tests."""
    story = submitted()
    for _ in range(4):
        begin(story)
        succeed(story)
        check(story, "test", False)
    assert "output" in story.state.ended.detail  # type: ignore[union-attr]
    story.when(decider.retry)
    assert "output" in story.state.stages["development"].findings
