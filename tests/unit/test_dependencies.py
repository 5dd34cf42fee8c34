"""What a task begins from that depends on others: their branches where they were published, else their checkpoints."""

from __future__ import annotations

import pytest

from events.kernel import replace
from events.pipeline import Pipeline, PullRequestGate, Stage, TestsGate, checked
from events.task import ApproveStage, RunRequested, TaskCompleted
from events.task_state import TASK, Checking, Task
from services.scheduler.deciders import dependencies
from services.scheduler.deciders import task as decider
from services.scheduler.deciders.dependencies import Base
from tests.unit.examples import Story, settings, start, submit
from tests.unit.test_task_decider import begin, check, succeed


def done(id: str, *stages: Stage) -> Task:
    """A task that has completed. Each agent's stage worked in an environment of its own, with a commit of its name."""
    story = Story(TASK, id)
    pipeline = checked(Pipeline(name="p", stages=stages))
    project = settings(pipeline=pipeline)
    story.when(lambda task: decider.submit(task, submit(), number=1, submission_id=id, project=project))
    while story.state.ended is None:
        for stage in stages:
            if isinstance(story.state.stages[stage.name].position, Checking):
                check(story, stage.name, True)
            elif stage in story.state.ready_stages():
                begin(story, stage.name)
                succeed(story, stage.name, f"{id}:{stage.name}")
    assert isinstance(story.state.ended, TaskCompleted)
    return story.state


WORK = Stage(name="work", role="developer")
DOCS = Stage(name="docs", role="writer")
TEST = Stage(name="test", needs=("work",), gate=TestsGate(command="make test"))
PUBLISH = Stage(name="publish", needs=("test",), gate=PullRequestGate())


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ((WORK, TEST, PUBLISH), [Base("cairn/shop-1")]),
        ((WORK, TEST), [Base("shop-1:work", "shop-1-work")]),
        ((replace(WORK, gate=PullRequestGate()),), [Base("cairn/shop-1")]),
        ((WORK, DOCS), [Base("shop-1:work", "shop-1-work"), Base("shop-1:docs", "shop-1-docs")]),
        ((WORK, DOCS, TEST, PUBLISH), [Base("shop-1:docs", "shop-1-docs"), Base("cairn/shop-1")]),
        (
            (WORK, TEST, PUBLISH, Stage(name="polish", needs=("publish",), role="developer")),
            [Base("shop-1:polish", "shop-1-polish")],
        ),
        (
            (WORK, DOCS, Stage(name="join", needs=("docs", "work"), role="developer")),
            [Base("shop-1:join", "shop-1-join")],
        ),
    ],
    ids=["published", "not published", "own", "two", "one of two", "after it was published", "joined"],
)
def test_work_of_a_task_is_a_branch_where_it_was_published(stages: tuple[Stage, ...], expected: list[Base]) -> None:
    """Else the checkpoints of the stages that no other stage goes on from."""
    assert dependencies.bases([done("shop-1", *stages)]) == expected


def test_work_begins_from_that_of_the_tasks_it_depends_on() -> None:
    """Also where an approval comes before the first agent; a dependency that is named twice is merged once."""
    stages = (Stage(name="allow", approval=True), Stage(name="work", needs=("allow",), role="developer"))
    story = Story(TASK, "shop-3")
    project = settings(pipeline=checked(Pipeline(name="p", stages=stages)))
    one, two = done("shop-1", WORK, TEST, PUBLISH), done("shop-2", WORK, TEST)
    command = submit(depends_on=("shop-1", "shop-2", "shop-1"))
    story.when(lambda task: decider.submit(task, command, number=3, submission_id="s3", project=project))
    story.when(lambda task: decider.approve(task, ApproveStage(stage="allow"), by="ada"))
    story.when(lambda task: decider.start_stage(task, start("work"), prompt="p", depends_on=[one, two, one]))
    request = story.state.requests["shop-3-work-1"]
    assert isinstance(request, RunRequested)
    assert (request.bases, request.sources) == (("cairn/shop-1", "shop-2:work"), ("", "shop-2-work"))
