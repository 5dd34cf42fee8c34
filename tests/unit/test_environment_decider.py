"""What may follow in an environment, and what the log and the host come to when they are compared."""

from __future__ import annotations

import pytest

from events.content import Inline
from events.environment import (
    ENVIRONMENT,
    BranchPushed,
    BranchRefused,
    Environment,
    EnvironmentLost,
    EnvironmentPreparationFailed,
    EnvironmentRemoved,
    ExecuteTool,
    OrphanRemoved,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallInterrupted,
    ToolCallStarted,
    ToolCallUncertain,
)
from events.kernel import replace
from events.run import RUN, ModelResponded, Run, RunCancelled, RunStarted, ToolCallRefused, ToolCallRequested
from events.task import CheckRequested, TaskBlocked, TaskCancelled, TaskCompleted, TaskFailed
from events.task_state import TASK, Task
from services.environment_manager import reconcile
from services.environment_manager.deciders import environment as decider
from services.environment_manager.ports import Checkpoint
from services.environment_manager.reconcile import (
    Abandon,
    Continue,
    EndProcess,
    Inspect,
    Lose,
    Prepare,
    Remove,
    RemoveOrphan,
    prepare_again,
)
from services.scheduler.deciders import task as task_decider
from tests.unit.environment_twins import PREPARED
from tests.unit.examples import AGENT, Story, kinds, settings, submit


def standing() -> Story[Environment]:
    return Story(ENVIRONMENT, "shop-1-development").given([PREPARED])


def started(id: str = "c1") -> ToolCallStarted:
    return ToolCallStarted(call_id=id, run_id="run-1", tool="shell")


def completed(id: str = "c1", checkpoint: str = "") -> ToolCallCompleted:
    return ToolCallCompleted(
        call_id=id, run_id="run-1", tool="shell", duration_ms=1, checkpoint=checkpoint, tree=checkpoint
    )


def execute(id: str = "c1", *, effects: str = "workspace", retry: str = "never") -> ExecuteTool:
    return ExecuteTool(
        call_id=id, run_id="run-1", task_id="shop-1", tool="t", arguments=Inline("{}"), effects=effects, retry=retry
    )


# ---- the environment itself


def test_environment_is_prepared_once() -> None:
    """One that was removed may be prepared again."""
    story = Story(ENVIRONMENT, "shop-1-development")
    assert not decider.stands(story.state)
    assert story.when(lambda state: decider.prepare(state, PREPARED)) == (PREPARED,)
    assert story.when(lambda state: decider.prepare(state, PREPARED)) == ()
    assert kinds(story.when(lambda state: decider.remove(state, "done"))) == ["EnvironmentRemoved"]
    assert story.when(lambda state: decider.remove(state, "done")) == ()
    assert not decider.stands(story.state)
    assert story.when(lambda state: decider.prepare(state, PREPARED)) == (PREPARED,)


def test_workspace_begins_from_what_its_stage_needs_now() -> None:
    """Other commits than it was made from make it one of work that is gone; where nothing is said, nothing is known."""
    made = ENVIRONMENT.evolve(ENVIRONMENT.initial("shop-1-review"), replace(PREPARED, bases=("a", "b")))
    assert [made.begins_from(bases) for bases in (("b", "a"), (), ("a",), ("a", "c"))] == [True, True, False, False]
    assert ENVIRONMENT.evolve(ENVIRONMENT.initial("shop-1-review"), PREPARED).begins_from(("a",))


def test_failed_preparation_is_said_each_time_but_not_of_one_that_stands() -> None:
    """Whoever asked waits for an answer."""
    failed = EnvironmentPreparationFailed(task_id="shop-1", cause="repository-not-found", detail="")
    story = Story(ENVIRONMENT, "shop-1-development")
    assert story.when(lambda state: decider.fail_preparation(state, failed)) == (failed,)
    assert story.when(lambda state: decider.fail_preparation(state, failed)) == (failed,)
    story.given([PREPARED])
    assert story.when(lambda state: decider.fail_preparation(state, failed)) == ()


def test_checkpoint_is_that_of_the_last_change() -> None:
    """A call that changed nothing names none."""
    story = standing()
    story.given([started("c1"), completed("c1", "d1"), started("c2"), completed("c2")])
    assert (story.state.checkpoint, story.state.tree) == ("d1", "d1")


# ---- calls


def test_call_is_started_and_ended_once() -> None:
    """However often it is said."""
    story = standing()
    assert story.when(lambda state: decider.start_call(state, started())) == (started(),)
    assert story.when(lambda state: decider.start_call(state, started())) == ()
    assert story.when(lambda state: decider.end_call(state, completed())) == (completed(),)
    failed = ToolCallFailed(call_id="c1", run_id="run-1", tool="shell", cause="x", detail="")
    assert story.when(lambda state: decider.end_call(state, failed)) == ()
    assert story.when(lambda state: decider.start_call(state, started())) == ()
    assert story.state.running == {}
    assert dict(story.state.ended) == {"c1": "completed"}


def test_call_without_effects_ends_without_a_start() -> None:
    """Its start is not worth a decision."""
    story = standing()
    assert story.when(lambda state: decider.end_call(state, completed())) == (completed(),)


@pytest.mark.parametrize(
    ("effects", "retry", "resolution"),
    [
        ("none", "never", "execute-again"),
        ("workspace", "never", "restore-and-execute-again"),
        ("external", "idempotent", "execute-again"),
        ("external", "never", "told-agent"),
        ("external", "probe", "told-agent"),
    ],
)
def test_uncertain_call_is_resolved_as_its_tool_declares(effects: str, retry: str, resolution: str) -> None:
    """What is told to the agent is over; everything else is under way again."""
    story = standing().given([started()])
    events = story.when(lambda state: decider.resolve_uncertain(state, execute(effects=effects, retry=retry)))
    uncertain = events[0]
    assert isinstance(uncertain, ToolCallUncertain)
    assert uncertain.resolution == resolution
    assert uncertain.restored == ("c0" if resolution.startswith("restore") else "")
    assert ("c1" in story.state.ended) == (resolution == "told-agent")


def test_call_that_is_uncertain_too_often_is_not_repeated() -> None:
    """It may be what kills the host."""
    story = standing().given([started()])
    for _ in range(decider.MAX_UNCERTAIN):
        assert kinds(story.when(lambda state: decider.resolve_uncertain(state, execute()))) == ["ToolCallUncertain"]
    assert kinds(story.when(lambda state: decider.resolve_uncertain(state, execute()))) == [
        "ToolCallUncertain",
        "ToolCallInterrupted",
    ]
    assert story.when(lambda state: decider.resolve_uncertain(state, execute())) == ()


def test_what_is_not_under_way_is_neither_uncertain_nor_abandoned() -> None:
    """It has ended, or never began."""
    story = standing()
    assert story.when(lambda state: decider.resolve_uncertain(state, execute())) == ()
    assert story.when(lambda state: decider.abandon_call(state, started())) == ()
    story.given([started()])
    assert kinds(story.when(lambda state: decider.abandon_call(state, started()))) == ["ToolCallInterrupted"]
    assert story.when(lambda state: decider.abandon_call(state, started())) == ()


def test_push_is_recorded_once_for_each_check() -> None:
    """Taken or refused."""
    story = standing()
    pushed = BranchPushed(check_id="k1", branch="cairn/shop-1", commit="c1", remote="origin")
    refused = BranchRefused(check_id="k2", branch="cairn/shop-1", detail="protected")
    for said in (pushed, refused):
        assert story.when(lambda state, said=said: decider.record_push(state, said)) == (said,)
        assert story.when(lambda state, said=said: decider.record_push(state, said)) == ()


# ---- the log and the host compared


def task(*events: object) -> Task:
    given = TASK.initial("shop-1")
    given = TASK.fold_onto(
        given, task_decider.submit(given, submit(), number=1, submission_id="s1", project=settings())
    )
    return TASK.fold_onto(given, events)  # type: ignore[arg-type]


def test_environment_that_the_log_does_not_have_is_removed() -> None:
    """Never prepared, or removed already: what lies on the host is left over."""
    unknown = ENVIRONMENT.initial("shop-1-development")
    removed = standing().given([EnvironmentRemoved()]).state
    for state in (unknown, removed):
        assert reconcile.reconcile(state, task(), {"c1": execute()}) == [RemoveOrphan("it is not in the log")]


def test_checkpoints_go_only_where_the_log_never_had_a_workspace() -> None:
    """Those of an environment that was removed, or lives elsewhere, are what replay and forks begin from."""
    failed = EnvironmentPreparationFailed(task_id="shop-1", cause="merge-conflict", detail="")
    orphan = OrphanRemoved(kind="workspace", name="shop-1-development", reason="it is not in the log")
    for events in ((), (failed,), (failed, orphan), (orphan,)):
        assert reconcile.unexplained(events) == "it is not in the log"
    for end in (EnvironmentRemoved(), EnvironmentLost(detail="gone"), failed, orphan):
        assert reconcile.unexplained((PREPARED, end)) == ""


def test_environment_of_a_finished_task_is_removed() -> None:
    """One that failed or is blocked stays: a person may look at it."""
    for end in (TaskCompleted(), TaskCancelled()):
        (action,) = reconcile.reconcile(standing().state, task(end), {})
        assert isinstance(action, Remove)
    for kept in (TaskFailed(stage="s", cause="c"), TaskBlocked(stage="s", cause="c")):
        assert reconcile.reconcile(standing().state, task(kept), {}) == []


def test_wanted_calls_go_on_and_unwanted_ones_are_abandoned() -> None:
    """Those that have ended are left alone."""
    story = standing().given([started("c1"), started("c2"), started("c3"), completed("c3")])
    wanted = {id: execute(id) for id in ("c2", "c3", "c4")}
    assert reconcile.reconcile(story.state, task(), wanted) == [
        Abandon(started("c1")),
        Continue(wanted["c2"]),
        Continue(wanted["c4"]),
    ]


def test_workspace_that_is_gone_is_lost_and_comes_back_where_it_is_needed() -> None:
    """Said once; a run or a call brings it back, as it was prepared before."""
    state = standing().state
    again = Prepare(prepare_again(state))
    assert reconcile.reconcile(state, task(), {}, stands=False) == [Lose()]
    assert reconcile.reconcile(state, task(), {}, stands=False, active=True) == [Lose(), again]
    lost = standing().given([EnvironmentLost(detail="gone")]).state
    assert reconcile.reconcile(lost, task(), {"c1": execute("c1")}, stands=False) == [again]
    assert reconcile.reconcile(lost, task(), {}) == []


def test_process_that_no_call_explains_is_ended() -> None:
    """Those of calls that run, are wanted, or were begun anew under another name are left alone."""
    story = standing().given([started("c1"), started("c2"), completed("c2")])
    wanted = {"c1": execute("c1"), "c3": execute("c3")}
    alive = ["c1.1", "c2", "c3", "c9"]
    actions = reconcile.reconcile(story.state, task(), wanted, alive=alive)
    assert [action for action in actions if isinstance(action, EndProcess)] == [EndProcess("c2"), EndProcess("c9")]


def test_workspace_is_looked_at_only_while_a_run_goes_on_and_no_call_does() -> None:
    """A call that runs may be what changes it."""
    idle = standing().given([started("c1"), completed("c1")]).state
    assert reconcile.reconcile(idle, task(), {"c1": execute("c1")}, active=True) == [Inspect()]
    assert reconcile.reconcile(idle, task(), {"c2": execute("c2")}, active=True) == [Continue(execute("c2"))]
    assert reconcile.reconcile(idle, task(), {}) == []


def run(*events: object) -> Run:
    begun = RunStarted(
        task_id="shop-1",
        stage="development",
        attempt=1,
        environment_id="shop-1-development",
        agent_name="coder",
        agent=AGENT,
        prompt="p",
        system="s",
        tools=("shell",),
        limits=AGENT.limits,
        host="here",
        runner="r",
    )
    return RUN.fold("shop-1-development-1", (begun, ModelResponded(step=1), *events))  # type: ignore[arg-type]


def requested(id: str, tool: str = "shell") -> ToolCallRequested:
    return ToolCallRequested(call_id=id, step=1, tool=tool, arguments=Inline("{}"), effects="workspace")


def test_calls_of_a_run_are_wanted_but_for_those_that_go_nowhere() -> None:
    """Questions and submissions are the runner's, refused calls nobody's, and an ended run wants nothing."""
    refused = ToolCallRefused(call_id="c2", cause="unknown-tool", detail="")
    asked = (requested("c1"), requested("c2"), refused, requested("c3", "ask_human"), requested("c4", "submit"))
    wanted = reconcile.requested_calls([run(*asked)], [], "shop-1")
    assert list(wanted) == ["c1"]
    assert (wanted["c1"].run_id, wanted["c1"].task_id) == ("shop-1-development-1", "shop-1")
    assert reconcile.requested_calls([run(*asked, RunCancelled(reason="r"))], [], "shop-1") == {}
    assert reconcile.requested_calls([RUN.initial("shop-1-development-1")], [], "shop-1") == {}


def test_checks_are_wanted_where_they_are_calls() -> None:
    """A publication is a command of its own."""

    def check(id: str, kind: str) -> CheckRequested:
        return CheckRequested(
            stage="test", attempt=1, check_id=id, kind=kind, environment_id="e", host="here", command="make test"
        )

    wanted = reconcile.requested_calls([], [check("k1", "tests"), check("k2", "pull_request")], "shop-1")
    assert list(wanted) == ["k1"]
    assert wanted["k1"].arguments == Inline('{"command":"make test"}')
    assert wanted["k1"].check_stage == "test"


def test_interrupted_call_is_an_end_like_any_other() -> None:
    """It is not continued."""
    interrupted = ToolCallInterrupted(call_id="c1", run_id="run-1", tool="shell", reason="cancelled")
    story = standing().given([started("c1"), interrupted])
    assert reconcile.reconcile(story.state, task(), {"c1": execute("c1")}) == []


def test_check_that_has_ended_is_told_again_while_its_task_asks() -> None:
    """Whoever executed it may have died before it told the scheduler."""
    check = replace(execute("k1"), check_stage="development")
    ended = ToolCallCompleted(call_id="k1", run_id="run-1", tool="shell", duration_ms=1)
    state = standing().given([ended]).state
    assert reconcile.reconcile(state, task(), {"k1": check}) == [Continue(check)]
    assert reconcile.reconcile(state, task(), {"k1": execute("k1")}) == []


@pytest.mark.parametrize(
    ("exit_code", "kinds_decided"),
    [
        (0, ["ToolCallUncertain", "ToolCallCompleted"]),
        (1, ["ToolCallUncertain"]),
        (9, ["ToolCallUncertain", "ToolCallInterrupted"]),
        (None, ["ToolCallUncertain", "ToolCallInterrupted"]),
    ],
)
def test_probe_decides_about_an_uncertain_call(exit_code: int | None, kinds_decided: list[str]) -> None:
    """It happened: its answer is the result. It did not: again. Nobody knows: the agent is told. All is recorded."""
    command = execute(effects="external", retry="probe")
    story = standing().given([started("c1")])
    probed = decider.Probed(asked="is it there", answered=Inline("yes"), exit_code=exit_code)
    left = Checkpoint("c9", "t9")
    events = story.when(lambda state: decider.resolve_uncertain(state, command, probed, left))
    assert kinds(events) == kinds_decided
    uncertain = events[0]
    assert isinstance(uncertain, ToolCallUncertain)
    assert (uncertain.asked, uncertain.answered, uncertain.answer_code) == ("is it there", Inline("yes"), exit_code)
    for end in events[1:]:
        assert isinstance(end, ToolCallCompleted | ToolCallInterrupted)
        assert end.checkpoint == "c9"
    if exit_code == 0:
        assert isinstance(events[1], ToolCallCompleted)
        assert events[1].content == Inline("yes")
