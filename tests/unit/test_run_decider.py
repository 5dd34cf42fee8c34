"""The life of a run: taken, resumed and fenced; answers of the model, waits, reminders, budgets, ends."""

from __future__ import annotations

from datetime import timedelta

import pytest

from events.agents import Limits, ModelAgent, ProgramAgent
from events.content import Inline
from events.errors import Fenced
from events.run import (
    RUN,
    ModelCallPostponed,
    Run,
    RunCancelled,
    RunCrashLooped,
    RunOverBudget,
    RunResumed,
    RunStalled,
    RunStarted,
    RunStarved,
    RunSucceeded,
    StartRun,
    ToolCallRefused,
    ToolCallRequested,
)
from services.agent_runner.deciders import run as decider
from services.agent_runner.ports import CallAsked, ModelAnswer
from tests.unit.examples import AGENT, NOW, Story, kinds

COMMAND = StartRun(
    task_id="shop-1",
    stage="development",
    attempt=1,
    environment_id="shop-1-development",
    agent_name="coder",
    agent=AGENT,
    prompt="Mend it.",
    limits=Limits(steps=3, tokens=1000, cost_usd=0.5),
    repository_url="/repositories/shop",
)
LIST = CallAsked(tool="list_files", arguments="{}", provider_call_id="p1")


def take(story: Story[Run], runner: str = "r1", *, waiting: bool = False, command: StartRun = COMMAND) -> list[str]:
    return kinds(
        story.when(
            lambda run: decider.begin(run, command, host="here", runner=runner, system="Be good.", waiting=waiting)
        )
    )


def started(command: StartRun = COMMAND) -> Story[Run]:
    story = Story(RUN, "shop-1-development-1")
    take(story, command=command)
    return story


def respond(story: Story[Run], *calls: CallAsked, epoch: int = 1, tokens: int = 10, cost_usd: float = 0.0) -> list[str]:
    answer = ModelAnswer(text="Well.", calls=calls, input_tokens=tokens, output_tokens=0)
    asked = [decider.Requested(asked=call, arguments=Inline(call.arguments)) for call in calls]
    return kinds(story.when(lambda run: decider.respond(run, epoch, answer, asked, cost_usd=cost_usd, duration_ms=1)))


def postpone(story: Story[Run], *, retry_after_seconds: float | None = None, jitter: float = 0.0) -> object:
    (event,) = story.when(
        lambda run: decider.postpone(
            run,
            1,
            cause="overloaded",
            detail="529",
            retry_after_seconds=retry_after_seconds,
            backoff_seconds=10.0,
            jitter=jitter,
            now=NOW,
        )
    )
    return event


def seconds(event: object) -> float:
    assert isinstance(event, ModelCallPostponed)
    return (event.retry_at - NOW).total_seconds()


# ---- lease and fence


def test_first_to_take_it_starts_it() -> None:
    """In epoch 1, with all that the agent is offered."""
    story = Story(RUN, "shop-1-development-1")
    assert take(story) == ["RunStarted"]
    event = story.history[0]
    assert isinstance(event, RunStarted)
    assert (story.state.epoch, event.system) == (1, "Be good.")
    assert event.tools == (
        "shell",
        "read_file",
        "write_file",
        "edit_file",
        "list_files",
        "search_files",
        "ask_human",
        "submit",
        "noop",
    )


def test_only_a_transcript_is_offered_what_measures() -> None:
    """A model has no use for it, and a program brings its own tools."""
    model = started(StartRun(**{**fields(COMMAND), "agent": ModelAgent(provider="anthropic", model="m")}))
    assert "noop" not in model.state.started.tools  # type: ignore[union-attr]
    program = started(StartRun(**{**fields(COMMAND), "agent": ProgramAgent(command=("agent",))}))
    assert program.state.started.tools == ()  # type: ignore[union-attr]


def fields(command: StartRun) -> dict[str, object]:
    return {name: getattr(command, name) for name in command.__struct_fields__}


def test_next_to_take_it_resumes_it_in_the_next_epoch() -> None:
    """On the host where its environment is, and with the last durable step in words."""
    story = started()
    respond(story, LIST)
    assert take(story, "r2") == ["RunInterrupted", "RunResumed"]
    event = story.history[-1]
    assert isinstance(event, RunResumed)
    assert (event.epoch, event.host, event.runner) == (2, "here", "r2")
    assert event.after == "request of list_files (shop-1-development-1-c1)"


def test_older_epoch_is_fenced() -> None:
    """Whatever it still wants to say."""
    story = started()
    take(story, "r2")
    for late in (
        lambda run: decider.respond(run, 1, ModelAnswer(), [], cost_usd=0.0, duration_ms=0),
        lambda run: decider.request_program(run, 1, Inline("{}")),
        lambda run: decider.receive_answer(run, 1, "c1", "EUR"),
        lambda run: decider.remind(run, 1),
        lambda run: decider.end(run, 1, RunCancelled(reason="late")),
    ):
        with pytest.raises(Fenced, match="held by epoch 2"):
            late(story.state)  # type: ignore[no-untyped-call]
    assert respond(story, epoch=2) == ["ModelResponded"]


def test_nothing_follows_the_end() -> None:
    """Neither another end nor another epoch."""
    story = started()
    end = RunSucceeded(summary="done", commit="c1")
    assert kinds(story.when(lambda run: decider.end(run, 1, end))) == ["RunSucceeded"]
    assert story.when(lambda run: decider.end(run, 1, RunCancelled(reason="late"))) == ()
    assert take(story, "r2") == []
    assert respond(story) == []
    assert story.state.status == "succeeded"


def test_run_whose_runners_keep_dying_is_given_up() -> None:
    """After five epochs without a durable step."""
    story = started()
    for _ in range(decider.MAX_BARREN_EPOCHS):
        assert take(story) == ["RunInterrupted", "RunResumed"]
    assert take(story) == ["RunCrashLooped"]
    assert story.state.ended == RunCrashLooped(epochs=6)


@pytest.mark.parametrize("step", ["respond", "postpone", "remind"])
def test_each_durable_step_shows_that_it_gets_on(step: str) -> None:
    """The epochs are counted from there again."""
    story = started()
    for _ in range(decider.MAX_BARREN_EPOCHS):
        take(story)
    epoch = story.state.epoch
    match step:
        case "respond":
            respond(story, epoch=epoch)
        case "postpone":
            story.given([ModelCallPostponed(failures=1, cause="network", detail="", retry_at=NOW)])
        case "remind":
            story.when(lambda run: decider.remind(run, epoch))
    assert take(story) == ["RunInterrupted", "RunResumed"]


def test_waiting_is_not_dying() -> None:
    """Runners that are replaced while a long call runs or a person thinks do no harm."""
    story = started()
    for _ in range(3 * decider.MAX_BARREN_EPOCHS):
        assert take(story, waiting=True) == ["RunInterrupted", "RunResumed"]


# ---- answers


def test_calls_get_ids_of_ours_that_are_never_used_twice() -> None:
    """However the model names its own."""
    story = started()
    assert respond(story, LIST, CallAsked(tool="noop", arguments='{"text": "x"}')) == [
        "ModelResponded",
        "ToolCallRequested",
        "ToolCallRequested",
    ]
    respond(story, LIST)
    requested = [event for event in story.history if isinstance(event, ToolCallRequested)]
    assert [call.call_id.rpartition("-")[2] for call in requested] == ["c1", "c2", "c3"]
    assert [call.step for call in requested] == [1, 1, 2]
    assert [call.call_id.rpartition("-")[2] for call in story.state.calls] == ["c3"]


@pytest.mark.parametrize(
    ("asked", "cause", "said"),
    [
        (CallAsked(tool="fly", arguments="{}"), "unknown-tool", "there is no tool 'fly'; there are shell, read_file"),
        (CallAsked(tool="program", arguments="{}"), "unknown-tool", "there is no tool 'program'"),
        (CallAsked(tool="shell", arguments='{"command": "ls'), "invalid-arguments", "not valid JSON"),
        (CallAsked(tool="shell", arguments="[]"), "invalid-arguments", "do not fit"),
        (CallAsked(tool="shell", arguments='{"comand": "ls"}'), "invalid-arguments", "It takes command"),
    ],
)
def test_call_that_cannot_be_is_refused_at_once(asked: CallAsked, cause: str, said: str) -> None:
    """It is requested and refused in one decision, and the model is told why."""
    story = started()
    assert respond(story, asked) == ["ModelResponded", "ToolCallRequested", "ToolCallRefused"]
    refused = story.history[-1]
    assert isinstance(refused, ToolCallRefused)
    assert refused.cause == cause
    assert said in refused.detail
    assert story.state.refused == {refused.call_id: refused}


def test_call_that_stands_twice_in_an_answer_runs_once() -> None:
    """In the next answer the same id is another call."""
    story = started()
    assert respond(story, LIST, LIST) == [
        "ModelResponded",
        "ToolCallRequested",
        "ToolCallRequested",
        "ToolCallRefused",
    ]
    assert story.state.refused["shop-1-development-1-c2"].cause == "repeated-call"
    assert respond(story, LIST) == ["ModelResponded", "ToolCallRequested"]
    without_id = CallAsked(tool="list_files", arguments="{}")
    assert respond(story, without_id, without_id) == ["ModelResponded", "ToolCallRequested", "ToolCallRequested"]


def test_effects_are_the_tools_and_not_the_models_to_say() -> None:
    """They decide what follows an uncertain end."""
    story = started()
    respond(story, LIST, CallAsked(tool="shell", arguments='{"command": "ls"}', provider_call_id="p2"))
    assert [call.effects for call in story.state.calls] == ["none", "workspace"]


def test_program_is_requested_once() -> None:
    """Whoever resumes finds the call there."""
    story = started()
    assert kinds(story.when(lambda run: decider.request_program(run, 1, Inline("{}")))) == ["ToolCallRequested"]
    assert story.when(lambda run: decider.request_program(run, 1, Inline("{}"))) == ()
    assert story.state.calls[0].effects == "external"


def test_answer_of_a_person_is_taken_once_and_only_for_a_call_of_this_turn() -> None:
    """An answer to something that was given up is nobody's."""
    story = started()
    respond(story, CallAsked(tool="ask_human", arguments='{"question": "Which?"}'))
    call = story.state.calls[0].call_id
    assert story.when(lambda run: decider.receive_answer(run, 1, "other", "EUR")) == ()
    assert kinds(story.when(lambda run: decider.receive_answer(run, 1, call, "EUR"))) == ["AnswerReceived"]
    assert story.when(lambda run: decider.receive_answer(run, 1, call, "EUR")) == ()
    respond(story)
    assert story.when(lambda run: decider.receive_answer(run, 1, call, "EUR")) == ()


# ---- waits, reminders, budgets


def test_waits_for_the_model_double_up_to_a_limit_of_failures() -> None:
    """10, 20, 40, 80, 160 seconds, then the run gives up."""
    story = started()
    assert [seconds(postpone(story)) for _ in range(5)] == [10, 20, 40, 80, 160]
    starved = postpone(story)
    assert starved == RunStarved(failures=6, cause="overloaded", detail="529")
    assert story.state.status == "starved"


def test_answer_ends_the_row_of_failures() -> None:
    """The next wait is short again."""
    story = started()
    postpone(story)
    postpone(story)
    respond(story)
    assert story.state.retry_at is None
    assert seconds(postpone(story)) == 10


@pytest.mark.parametrize(
    ("retry_after_seconds", "jitter", "waited"), [(None, 1.0, 12), (5.0, 0.0, 10), (60.0, 0.0, 60), (60.0, 1.0, 72)]
)
def test_provider_is_given_the_time_that_it_asks_for(
    retry_after_seconds: float | None, jitter: float, waited: float
) -> None:
    """``Retry-After`` is a floor, and a wait gets a little longer by chance so that not all come back at once."""
    assert seconds(postpone(started(), retry_after_seconds=retry_after_seconds, jitter=jitter)) == waited


def test_backoff_has_a_limit() -> None:
    """No wait of ours is longer than ten minutes and its jitter."""
    story = started().given([ModelCallPostponed(failures=4, cause="x", detail="", retry_at=NOW)])
    (event,) = story.when(
        lambda run: decider.postpone(
            run, 1, cause="x", detail="", retry_after_seconds=None, backoff_seconds=100.0, jitter=0.0, now=NOW
        )
    )
    assert isinstance(event, ModelCallPostponed)
    assert event.retry_at == NOW + timedelta(seconds=600)


def test_model_that_stops_is_reminded_three_times() -> None:
    """Then the run has stalled; a call in between begins the count anew."""
    story = started()
    for _ in range(3):
        respond(story)
        assert kinds(story.when(lambda run: decider.remind(run, 1))) == ["AgentReminded"]
    respond(story, LIST)
    for _ in range(3):
        respond(story)
        assert kinds(story.when(lambda run: decider.remind(run, 1))) == ["AgentReminded"]
    respond(story)
    (stalled,) = story.when(lambda run: decider.remind(run, 1))
    assert isinstance(stalled, RunStalled)
    assert "4 times" in stalled.detail


def test_budgets_are_folded_and_a_resume_does_not_reset_them() -> None:
    """Steps, tokens and money; the first that is used up is named."""
    story = started()
    respond(story, tokens=400)
    assert decider.over_budget(story.state) is None
    take(story, "r2")
    respond(story, epoch=2, tokens=600)
    assert decider.over_budget(story.state) == RunOverBudget(budget="tokens", limit=1000, used=1000)
    respond(story, epoch=2)
    assert decider.over_budget(story.state) == RunOverBudget(budget="steps", limit=3, used=3)
    costly = started()
    respond(costly, cost_usd=0.6)
    assert decider.over_budget(costly.state) == RunOverBudget(budget="cost_usd", limit=0.5, used=0.6)


def test_no_limit_limits_nothing() -> None:
    """0 stands for none."""
    story = started(StartRun(**{**fields(COMMAND), "limits": Limits(steps=0)}))
    for _ in range(20):
        respond(story, tokens=10**6, cost_usd=10.0)
    assert decider.over_budget(story.state) is None
    assert decider.over_budget(RUN.initial("shop-1-development-1")) is None
