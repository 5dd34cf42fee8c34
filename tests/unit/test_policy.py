"""Placement: what starts next, and for everything else why not; and which dependencies a task may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta

import pytest

from events.agents import Agent, Limits, ModelAgent, ProgramAgent
from events.breaker import Breaker, credential_of
from events.environment import ExecuteTool, PublishBranch
from events.errors import Invalid
from events.pipeline import DEVELOPMENT, Pipeline, Stage
from events.preflight import Finding, Preflights
from events.project import Project
from events.run import StartRun
from events.task import CheckRequested, RecordCheck, RecordRunFailed, RecordRunSucceeded, StageResult, TaskCompleted
from events.task_state import TASK, Task
from services.scheduler import policy
from services.scheduler.deciders import task as decider
from services.scheduler.policy import Placed
from tests.unit.examples import AGENT, NOW, RESULT, settings, start, submit

AGENTS: dict[str, Agent] = {"coder": AGENT}
MODEL = ModelAgent(provider="openai", model="m", key="env:KEY")
CREDENTIAL = credential_of(MODEL)
PROGRAM = ProgramAgent(command=("claude", "-p"))
TWO = Pipeline(name="two", stages=(Stage(name="one", role="developer"), Stage(name="other", role="developer")))


def task(number: int, *depends_on: int, project: str = "shop", pipeline: Pipeline = DEVELOPMENT, **of: object) -> Task:
    """Task ``<project>-<number>``, submitted and nothing more."""
    id = f"{project}-{number}"
    command = submit(project=project, depends_on=tuple(f"{project}-{other}" for other in depends_on), **of)
    given = TASK.initial(id)
    events = decider.submit(
        given, command, number=number, submission_id=id, project=settings(prefix=project, pipeline=pipeline)
    )
    return TASK.fold_onto(given, events)


def running(given: Task, stage: str = "development") -> Task:
    return TASK.fold_onto(given, decider.start_stage(given, start(stage), prompt="do it"))


def failed_once(given: Task) -> Task:
    given = running(given)
    command = RecordRunFailed(stage="development", run_id=f"{given.id}-development-1", cause="crashed", detail="")
    return TASK.fold_onto(
        given, decider.record_run_failed(given, command, now=NOW, retries=decider.Retries(delay_seconds=60.0))
    )


def completed(given: Task) -> Task:
    return TASK.fold_onto(given, (TaskCompleted(),))


def place(
    *tasks: Task,
    at_once: int = 10,
    later_seconds: float = 0,
    agents: Mapping[str, Agent] = AGENTS,
    breaker: Breaker | None = None,
    preflights: Preflights | None = None,
    **of_project: object,
) -> Placed:
    projects = {name: Project(id=name, settings=settings(prefix=name, **of_project)) for name in ("shop", "mill")}
    return policy.place(
        {item.id: item for item in tasks},
        projects,
        agents,
        agents_at_once=at_once,
        now=NOW + timedelta(seconds=later_seconds),
        breakers={breaker.id: breaker} if breaker is not None else {},
        preflights=preflights or {},
    )


def placed(*tasks: Task, **how: object) -> list[str]:
    return [placement.task_id for placement in place(*tasks, **how).placements]  # type: ignore[arg-type]


def board(*tasks: Task) -> dict[str, Task]:
    return {item.id: item for item in tasks}


# ---- order


def test_work_that_was_begun_goes_first() -> None:
    """Leftovers of an earlier session before everything that is new, whatever its score."""
    leftover = failed_once(task(9))
    assert placed(task(1, priority=5), task(2), leftover, later_seconds=61, at_once=1) == ["shop-9"]


def test_what_unblocks_more_goes_first() -> None:
    """Counted through others, and only what is still to be done."""
    tasks = (task(1), task(2), task(3, 2), task(4, 3), task(5), completed(task(6, 5)), completed(task(7, 5)))
    assert placed(*tasks) == ["shop-2", "shop-1", "shop-5"]


def test_a_diamond_is_counted_once() -> None:
    """The task at its end waits for the one at its beginning once, not once for each way."""
    diamond = (task(1), task(2, 1), task(3, 1), task(4, 2, 3))
    assert policy.unblocked(board(*diamond)) == {
        "shop-1": {"shop-2", "shop-3", "shop-4"},
        "shop-2": {"shop-4"},
        "shop-3": {"shop-4"},
        "shop-4": frozenset(),
    }
    line = (task(11), task(12, 11), task(13, 12), task(14, 13), task(15, 14))
    assert placed(*diamond, *line) == ["shop-11", "shop-1"]


def test_then_what_stands_upon_less_then_priority_then_number() -> None:
    """Each rule decides only where those before it do not."""
    below = completed(task(1))
    tasks = (below, task(2, 1, priority=9), task(12), task(4), task(30, priority=1))
    assert placed(*tasks, agents_at_once=5) == ["shop-30", "shop-4", "shop-12", "shop-2"]


# ---- limits, and why not


def test_all_agents_are_bounded() -> None:
    """Running ones count, and the reason names both numbers."""
    answer = place(running(task(1)), task(2), task(3), at_once=2)
    assert [item.task_id for item in answer.placements] == ["shop-2"]
    assert answer.waiting == {"shop-3": "stage development: 2 of 2 agents run already"}


def test_agents_of_a_project_are_bounded() -> None:
    """Another project's tasks go on."""
    answer = place(running(task(1)), task(2), task(3), task(1, project="mill"), agents_at_once=2)
    assert sorted(item.task_id for item in answer.placements) == ["mill-1", "shop-2"]
    assert answer.waiting == {"shop-3": "stage development: 2 of 2 agents of project shop run already"}


def open_breaker(probe: str = "") -> Breaker:
    assert CREDENTIAL is not None
    return Breaker(
        id=CREDENTIAL.id,
        credential=CREDENTIAL.name,
        faults=("1", "2", "3"),
        until=NOW + timedelta(seconds=300),
        probe=probe,
        cause="overloaded",
    )


def test_open_breaker_keeps_its_credential_from_being_used() -> None:
    """The reason names it, and placement looks again when its time is over; agents without it go on."""
    answer = place(task(1), task(2), agents={"coder": MODEL}, breaker=open_breaker())
    assert answer.placements == ()
    assert "openai env:KEY failed 3 times in a row, with overloaded" in answer.waiting["shop-1"]
    assert answer.wake_at == NOW + timedelta(seconds=300)
    assert placed(task(1), agents={"coder": PROGRAM}, breaker=open_breaker()) == ["shop-1"]


def test_one_task_probes_when_the_time_is_over() -> None:
    """However many are ready; it is marked, so that its run is let through."""
    answer = place(task(1), task(2), agents={"coder": MODEL}, breaker=open_breaker(), later_seconds=301)
    assert [(item.task_id, item.probes) for item in answer.placements] == [("shop-1", open_breaker().id)]
    assert list(answer.waiting) == ["shop-2"]


def test_nothing_is_started_while_a_probe_is_under_way() -> None:
    """Its run counts for as long as a task asks for it."""
    probing = open_breaker("shop-1-development-1")
    both = {"agents": {"coder": MODEL}, "breaker": probing, "later_seconds": 301}
    answer = place(running(task(1)), task(2), **both)  # type: ignore[arg-type]
    assert answer.placements == ()
    assert "shop-1-development-1 tries if it answers again" in answer.waiting["shop-2"]
    assert placed(completed(task(1)), task(2), **both) == ["shop-2"]


def test_program_that_no_worker_can_run_stays_queued() -> None:
    """With the reason; it starts where one can."""
    bad = {"here": {"claude": Finding(problem="'claude' is not there")}}
    answer = place(task(1), agents={"coder": PROGRAM}, preflights=bad)
    assert answer.waiting == {"shop-1": "stage development: 'claude' is not there on here"}
    assert placed(task(1), agents={"coder": PROGRAM}, preflights={**bad, "there": {"claude": Finding()}}) == ["shop-1"]
    assert placed(task(1), preflights=bad) == ["shop-1"]


def test_stages_of_one_task_run_beside_each_other() -> None:
    """And each takes a slot."""
    assert placed(task(1, pipeline=TWO)) == ["shop-1", "shop-1"]
    answer = place(running(task(1, pipeline=TWO), "one"), at_once=1)
    assert answer.waiting == {"shop-1": "stage other: 1 of 1 agents run already"}


def test_run_of_an_ended_task_takes_no_slot() -> None:
    """However its run is getting on with ending."""
    cancelled = TASK.fold_onto(running(task(1)), (TaskCompleted(),))
    assert placed(cancelled, task(2), at_once=1) == ["shop-2"]


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (task(1), "waits for task shop-1, which is queued"),
        (running(task(1)), "waits for task shop-1, which is running"),
        (None, "waits for task shop-1, which is unknown"),
    ],
)
def test_task_waits_for_what_it_depends_on(first: Task | None, reason: str) -> None:
    """Until that has completed."""
    tasks = [task(2, 1), *([first] if first else [])]
    assert place(*tasks).waiting["shop-2"] == f"stage development: {reason}"
    assert placed(task(2, 1), completed(task(1))) == ["shop-2"]


def test_failed_stage_waits_for_its_time() -> None:
    """And placement says when time alone will change something."""
    answer = place(failed_once(task(1)))
    assert answer.placements == ()
    assert answer.wake_at == NOW + timedelta(seconds=60)
    assert answer.waiting == {"shop-1": "stage development: tries again at 2026-01-01 00:01:00 UTC"}
    assert placed(failed_once(task(1)), later_seconds=60) == ["shop-1"]


def test_agent_is_the_tasks_own_else_that_of_the_role() -> None:
    """A role without an agent falls to one of its own name, and where there is none, the reason says so."""
    assert place(task(1, agent="")).waiting == {"shop-1": "stage development: no agent 'developer' is configured"}
    answer = place(task(1, agent=""), roles={"developer": "coder"})
    assert [item.agent_name for item in answer.placements] == ["coder"]


def test_ended_tasks_and_gates_are_not_placed() -> None:
    """A stage without an agent goes on by itself."""
    given = running(task(1))
    command = RecordRunSucceeded(stage="development", run_id="shop-1-development-1", result=RESULT)
    given = TASK.fold_onto(given, decider.record_run_succeeded(given, command))
    assert place(given, completed(task(2))) == Placed((), {})


# ---- dependencies


def refusal(new: str, depends_on: Iterable[str], tasks: dict[str, Task]) -> Invalid:
    with pytest.raises(Invalid) as caught:
        policy.check_dependencies(new, "shop", tuple(depends_on), tasks)
    return caught.value


def test_dependencies_that_can_be_are_accepted() -> None:
    """None, some, and some that have ended."""
    tasks = board(task(1), completed(task(2)))
    policy.check_dependencies("shop-3", "shop", (), tasks)
    policy.check_dependencies("shop-3", "shop", ("shop-1", "shop-2"), tasks)


def test_unknown_dependency_is_refused() -> None:
    """By its name."""
    error = refusal("shop-2", ["shop-7"], board(task(1)))
    assert (error.slug, str(error)) == ("unknown-dependency", "there is no task 'shop-7' to depend on.")


def test_task_that_depends_on_itself_is_refused() -> None:
    """The circle is shown, short as it is."""
    error = refusal("shop-2", ["shop-2"], board(task(1)))
    assert error.slug == "dependency-cycle"
    assert "shop-2 → shop-2" in str(error)


def test_circle_is_shown() -> None:
    """Every task that is on it, and no other."""
    error = refusal("shop-3", ["shop-1"], board(task(1, 2), task(2, 3), task(4, 1)))
    assert error.slug == "dependency-cycle"
    circle = str(error).partition(": ")[2].rstrip(".").split(" → ")
    assert circle[0] == circle[-1]
    assert sorted(circle[1:]) == ["shop-1", "shop-2", "shop-3"]


def test_task_of_another_project_is_refused() -> None:
    """With both projects in the message."""
    error = refusal("shop-2", ["mill-1"], board(task(1, project="mill")))
    assert error.slug == "foreign-dependency"
    assert "project mill" in str(error)


def test_too_many_dependencies_are_refused() -> None:
    """Twenty are enough."""
    tasks = board(*(task(number) for number in range(1, 22)))
    policy.check_dependencies("shop-30", "shop", tuple(tasks)[:20], tasks)
    assert refusal("shop-30", tasks, tasks).slug == "too-many-dependencies"


def test_too_deep_dependencies_are_refused() -> None:
    """Fifty levels stand below a task at most."""
    chain = board(task(1), *(task(number, number - 1) for number in range(2, 52)))
    policy.check_dependencies("shop-90", "shop", ("shop-50",), chain)
    assert refusal("shop-90", ["shop-51"], chain).slug == "dependencies-too-deep"


# ---- what a request stands for


def test_run_gets_the_narrowest_limits() -> None:
    """Of its agent, its stage and its task; 0 limits nothing."""
    agent = Limits(steps=50, tokens=0, seconds=900.0, idle_seconds=0, cost_usd=2.0)
    stage = Stage(name="s", role="r", time_limit_seconds=600.0, idle_limit_seconds=120.0)
    budget = Limits(steps=80, tokens=1000, seconds=0, cost_usd=1.0)
    allowed = policy.limits(agent, stage, budget)
    assert allowed == Limits(steps=50, tokens=1000, seconds=600.0, idle_seconds=120.0, cost_usd=1.0)
    assert policy.limits(Limits(steps=0), Stage(name="s", time_limit_seconds=0), None).steps == 0


def test_commands_are_derived_from_requests() -> None:
    """The same whenever they are asked for."""
    given = running(task(1, description="All of it.", acceptance_criteria=("it adds up",)))
    run = policy.command_for(given, given.requests["shop-1-development-1"])
    assert isinstance(run, StartRun)
    assert (run.environment_id, run.repository_url) == ("shop-1-development", "/repositories/shop")
    result = StageResult(environment_id="shop-1-development", host="here", commit="c1", summary="Mended it.")
    command = RecordRunSucceeded(stage="development", run_id="shop-1-development-1", result=result)
    given = TASK.fold_onto(given, decider.record_run_succeeded(given, command))
    ((id, request),) = given.requests.items()
    check = policy.command_for(given, request)
    assert isinstance(check, ExecuteTool)
    assert (check.call_id, check.check_stage) == ("shop-1-test-1-check", "test")
    answer = RecordCheck(stage="test", check_id=id, passed=True, summary="ok")
    given = TASK.fold_onto(given, decider.record_check(given, answer))
    ((_, request),) = given.requests.items()
    assert isinstance(request, CheckRequested)
    publish = policy.command_for(given, request)
    assert isinstance(publish, PublishBranch)
    assert publish.commit == "c1"
    assert publish.description == "All of it.\n\nAcceptance criteria:\n- it adds up\n\nMended it.\n\nTask shop-1"


def test_room_is_what_those_started_since_have_left() -> None:
    """A placement made before another agent was started is looked at again: of the whole and of its project."""
    first, second, other = running(task(1)), task(2), running(task(1, project="blog"))
    placed = policy.Placement(second.id, "development", "model")
    projects = {"shop": Project(id="shop", settings=settings(agents_at_once=1))}
    assert policy.has_room(placed, {second.id: second}, projects, agents_at_once=1)
    assert not policy.has_room(placed, {first.id: first, second.id: second}, projects, agents_at_once=5)
    assert policy.has_room(placed, {other.id: other, second.id: second}, projects, agents_at_once=2)
    assert not policy.has_room(placed, {other.id: other, second.id: second}, projects, agents_at_once=1)
