"""A fork: where it begins, what it takes over, what its agent hears first."""

from __future__ import annotations

import pytest

from events.agents import ProgramAgent
from events.content import Inline
from events.conversation import FORKED, AssistantTurn, Conversation, ToolResults, UserText
from events.environment import ENVIRONMENT, EnvironmentPrepared, ToolCallCompleted, ToolCallStarted
from events.errors import Invalid, NotFound
from events.kernel import Event, replace
from events.lineage import ForkedFrom
from events.pipeline import Pipeline, Stage, TestsGate
from events.run import RUN, ModelResponded, RunStarted, ToolCallRequested
from events.task import ForkRun, RecordRunSucceeded, RunRequested, StageRolledBack
from events.task_state import TASK, Passed, Task
from infra.clock import SystemClock
from infra.entities import Cause, EntityStore
from infra.lineage import ancestors
from infra.memory.plumbing import Memory
from services.scheduler import policy
from services.scheduler.deciders import fork, task
from services.scheduler.forks import find_source, left_behind
from services.scheduler.prompts import fork_prompt
from tests.unit.environment_twins import PREPARED
from tests.unit.examples import AGENT, RESULT, Story, kinds, settings, start, submit

RUN_ID = "shop-1-development-1"
POINT = ForkedFrom(
    run_id=RUN_ID,
    sequence=7,
    stage="development",
    environment_id="shop-1-development",
    commit="c1",
    host="here",
    prompt="Use decimals.",
)
REVIEWED = Pipeline(
    name="reviewed",
    stages=(
        Stage(name="development", role="developer"),
        Stage(name="review", role="reviewer", needs=("development",), rollback_to="development"),
    ),
)


def started(run: str = RUN_ID, prompt: str = "Mend it.", forked_from: ForkedFrom | None = None) -> RunStarted:
    task_id, stage, attempt = run.rsplit("-", 2)
    return RunStarted(
        task_id=task_id,
        stage=stage,
        attempt=int(attempt),
        environment_id=f"{task_id}-{stage}",
        agent_name="coder",
        agent=AGENT,
        prompt=prompt,
        system="",
        tools=("shell",),
        limits=AGENT.limits,
        host="here",
        runner="r",
        forked_from=forked_from,
    )


def asked(call: str, step: int = 1, text: str = "I look.") -> tuple[Event, ...]:
    call_made = ToolCallRequested(call_id=call, step=step, tool="shell", arguments=Inline("{}"), effects="workspace")
    return (ModelResponded(step=step, text=text), call_made)


def done(call: str, text: str = "found", checkpoint: str = "") -> ToolCallCompleted:
    run = call.rpartition("-")[0]
    return ToolCallCompleted(
        call_id=call, run_id=run, tool="shell", duration_ms=1, content=Inline(text), checkpoint=checkpoint
    )


class Log:
    """A log in memory, written to by name."""

    def __init__(self) -> None:
        self.log = Memory().log
        self._stores = {
            entity.name: EntityStore(self.log, entity, SystemClock()) for entity in (RUN, ENVIRONMENT, TASK)
        }
        self._count = 0

    async def append(self, entity: str, id: str, *events: Event) -> int:
        self._count += 1
        return (await self._stores[entity].decide(id, Cause(id=f"d{self._count}"), lambda _: events)).revision


async def source_log() -> tuple[Log, list[int]]:
    """A run that looked, changed the workspace, and asked for a third call; the sequences of its steps."""
    log = Log()
    story = Story(TASK, "shop-1")
    story.when(lambda state: task.submit(state, submit(), number=1, submission_id="s1", project=settings()))
    story.when(lambda state: task.start_stage(state, start(), prompt="Mend it."))
    await log.append(TASK.name, "shop-1", *story.history)
    c1, c2, c3 = (f"{RUN_ID}-c{number}" for number in (1, 2, 3))
    return log, [
        await log.append(RUN.name, RUN_ID, started()),
        await log.append(ENVIRONMENT.name, "shop-1-development", PREPARED),
        await log.append(RUN.name, RUN_ID, *asked(c1)),
        await log.append(ENVIRONMENT.name, "shop-1-development", done(c1)),
        await log.append(RUN.name, RUN_ID, *asked(c2, 2, "I change it.")),
        await log.append(ENVIRONMENT.name, "shop-1-development", done(c2, "changed", "c1")),
        await log.append(RUN.name, RUN_ID, *asked(c3, 3, "I test it.")),
    ]


# ---- where it begins


async def test_point_is_the_last_step_and_its_checkpoint() -> None:
    """A sequence between two steps, or beyond the last, means the step before it."""
    log, steps = await source_log()
    early = (await find_source(log.log, "shop-1", ForkRun(run_id=RUN_ID, sequence=steps[4]))).point
    late = (await find_source(log.log, "shop-1", ForkRun(run_id=RUN_ID, sequence=10_000, prompt="Go on."))).point
    assert (early.sequence, early.commit) == (steps[4], "c0")
    assert (late.sequence, late.commit, late.prompt, late.host) == (steps[6], "c1", "Go on.", "here")


@pytest.mark.parametrize(
    ("run", "step", "kind", "slug"),
    [
        ("shop-1-development-9", 0, NotFound, "run-not-found"),
        (RUN_ID, -1, Invalid, "before-the-beginning"),
        (RUN_ID, 0, Invalid, "no-checkpoint-yet"),
    ],
)
async def test_steps_that_nothing_can_go_on_from(run: str, step: int, kind: type[NotFound], slug: str) -> None:
    """An unknown run, a sequence before the run, and one before its workspace stood are told apart."""
    log, steps = await source_log()
    sequence = steps[0] - 1 if step < 0 else steps[step]
    with pytest.raises(kind) as caught:
        await find_source(log.log, "shop-1", ForkRun(run_id=run, sequence=sequence))
    assert caught.value.slug == slug


async def test_run_of_another_task() -> None:
    """A run is found only through its own task."""
    log, steps = await source_log()
    with pytest.raises(NotFound):
        await find_source(log.log, "shop-2", ForkRun(run_id=RUN_ID, sequence=steps[6]))


async def test_what_a_fork_does_not_go_on_with_is_said() -> None:
    """A program takes over no conversation; what a call that was under way had changed is in no checkpoint."""
    log, steps = await source_log()
    call = ToolCallStarted(call_id=f"{RUN_ID}-c3", run_id=RUN_ID, tool="shell", effects="workspace")
    begun = await log.append(ENVIRONMENT.name, "shop-1-development", call)
    before = await find_source(log.log, "shop-1", ForkRun(run_id=RUN_ID, sequence=steps[6]))
    while_it_ran = await find_source(log.log, "shop-1", ForkRun(run_id=RUN_ID, sequence=begun))
    program = ProgramAgent(command=("fix-it",))
    assert left_behind(before, AGENT) == ""
    assert "it starts anew" in left_behind(before, program)
    assert left_behind(while_it_ran, AGENT).startswith("What shell had changed by then is not in the workspace")
    assert len(left_behind(while_it_ran, program).split(". ")) == 2


# ---- what it takes over


def developed(pipeline: Pipeline) -> Task:
    """A task whose development has passed."""
    story = Story(TASK, "shop-1")
    story.when(
        lambda state: task.submit(state, submit(), number=1, submission_id="s1", project=settings(pipeline=pipeline))
    )
    story.when(lambda state: task.start_stage(state, start(), prompt="p"))
    story.when(
        lambda state: task.record_run_succeeded(
            state, RecordRunSucceeded(stage="development", run_id=RUN_ID, result=RESULT)
        )
    )
    return story.state


def forked(source: Task, point: ForkedFrom = POINT, **changes: str) -> Story[Task]:
    story = Story(TASK, "shop-2")
    command = ForkRun(run_id=point.run_id, sequence=point.sequence, **changes)
    story.when(lambda state: fork.fork(state, command, source=source, point=point, number=2, submission_id="s2"))
    return story


def requested(story: Story[Task], stage: str = "development") -> RunRequested:
    (event,) = story.when(lambda state: task.start_stage(state, start(stage), prompt="p"))
    assert isinstance(event, RunRequested)
    return event


def test_fork_asks_for_the_same() -> None:
    """Its specification is the source's, with another agent where one was named; its lineage stands in its event."""
    story = forked(developed(REVIEWED), agent="other")
    submitted = story.state.submitted
    assert submitted is not None
    assert (submitted.specification.title, submitted.specification.agent) == ("Mend the total", "other")
    assert (submitted.number, submitted.forked_from) == (2, POINT)
    assert story.state.status == "queued"


def test_run_of_the_fork_begins_where_the_source_was() -> None:
    """With the conversation, the checkpoint, and the host where that lies, also in its later attempts."""
    request = requested(forked(developed(REVIEWED)))
    assert (request.run_id, request.attempt, request.forked_from) == ("shop-2-development-1", 1, POINT)
    assert (request.restore, request.restore_source, request.host) == ("c1", "shop-1-development", "here")
    story = forked(developed(REVIEWED))
    requested(story)
    command = policy.command_for(story.state, next(iter(story.state.requests.values())))
    assert (command.restore, command.host, command.forked_from) == ("c1", "here", POINT)  # type: ignore[attr-defined]


def test_stages_that_had_passed_are_not_repeated() -> None:
    """A fork of a review starts with the review; sent back, its development begins with what it took over."""
    point = replace(POINT, run_id="shop-1-review-1", stage="review", environment_id="shop-1-review")
    story = forked(developed(REVIEWED), point)
    assert kinds(story.history) == ["TaskSubmitted", "StagePassed"]
    assert story.state.stages["development"].position == Passed()
    assert requested(story, "review").restore == "c1"
    story.given([StageRolledBack(stage="review", to="development", findings="It is wrong.", rework=1)])
    again = requested(story)
    assert (again.restore, again.restore_source, again.forked_from) == ("c0ffee", "shop-1-development", None)


def test_task_that_is_no_fork_begins_anew() -> None:
    """Nothing is restored and no host is asked for."""
    story = Story(TASK, "shop-1")
    story.when(lambda state: task.submit(state, submit(), number=1, submission_id="s1", project=settings()))
    request = requested(story)
    assert (request.forked_from, request.restore, request.host) == (None, "", "")


def test_gate_without_its_workspace_is_refused() -> None:
    """A gate that has yet to test work that the fork takes over would test another task's workspace."""
    gate = Stage(name="check", needs=("development",), gate=TestsGate(command="true"))
    pipeline = Pipeline(name="both", stages=(*REVIEWED.stages, gate))
    point = replace(POINT, stage="review")
    with pytest.raises(Invalid, match="fork a run of stage 'development' instead"):
        forked(developed(pipeline), point)


# ---- what its agent hears


def told(conversation: Conversation) -> list[str]:
    """The conversation in words: who says what."""
    words = []
    for message in conversation.messages:
        match message:
            case UserText(text=text):
                words.append(f"user: {text}")
            case AssistantTurn(text=text, calls=calls):
                words.append(f"model: {text} {len(calls)}")
            case ToolResults(results=results):
                words += [f"result: {result.shown(getattr(result.content, 'text', ''))}" for result in results]
    return words


async def heard(log: Log, *own: Event, forked_from: ForkedFrom) -> list[str]:
    conversation = Conversation()
    for record in await ancestors(log.log, forked_from):
        for event in record.envelope.events:
            conversation.apply(event)
    for event in own:
        conversation.apply(event)
    return told(conversation)


async def test_conversation_goes_on_from_the_source() -> None:
    """Everything up to the fork, nothing after it, then what is wanted now."""
    log, steps = await source_log()
    point = replace(POINT, sequence=steps[3])
    assert await heard(log, started("shop-2-development-1", "Use decimals.", point), forked_from=point) == [
        "user: Mend it.",
        "model: I look. 1",
        "result: found",
        "user: Use decimals.",
    ]


async def test_open_calls_at_the_fork_are_closed() -> None:
    """The call's result in the source came later: here the model is told that there is none. Nothing more is said
    where nothing is wanted."""
    log, steps = await source_log()
    point = replace(POINT, sequence=steps[4])
    words = await heard(log, started("shop-2-development-1", "", point), forked_from=point)
    assert words[-2:] == ["model: I change it. 1", f"result: {FORKED}"]


async def test_fork_of_a_fork() -> None:
    """The conversation is that of all generations, each up to where it was left."""
    log, steps = await source_log()
    point = replace(POINT, sequence=steps[3])
    second = "shop-2-development-1"
    await log.append(RUN.name, second, started(second, "Use decimals.", point))
    await log.append(ENVIRONMENT.name, "shop-2-development", prepared("shop-2"))
    last = await log.append(RUN.name, second, *asked(f"{second}-c1", text="I use them."))
    await log.append(ENVIRONMENT.name, "shop-2-development", done(f"{second}-c1"))
    child = replace(POINT, run_id=second, environment_id="shop-2-development", sequence=last)
    third = started("shop-3-development-1", "Round them.", child)
    assert await heard(log, third, forked_from=child) == [
        "user: Mend it.",
        "model: I look. 1",
        "result: found",
        "user: Use decimals.",
        "model: I use them. 1",
        f"result: {FORKED}",
        "user: Round them.",
    ]


def test_prompt_of_a_fork() -> None:
    """Who has heard the conversation is told only what is new; a program is told the task as well."""
    assert fork_prompt("# Task", "", "", 1, has_heard=True) == ""
    assert fork_prompt("# Task", "Use decimals.", "", 1, has_heard=True) == "Use decimals.\n"
    assert "the tests fail" in fork_prompt("# Task", "", "the tests fail", 2, has_heard=True)
    assert fork_prompt("# Task\n", "Use decimals.", "", 1, has_heard=False) == "# Task\n\nUse decimals.\n"


def prepared(task_id: str) -> EnvironmentPrepared:
    return replace(PREPARED, task_id=task_id)
