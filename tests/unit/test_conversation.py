"""The conversation with the model as it is folded from events."""

from __future__ import annotations

import time

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from events.agents import Limits, ModelAgent
from events.content import Inline, Stored
from events.conversation import (
    INTERRUPTED,
    AssistantTurn,
    CallMade,
    CallResult,
    Conversation,
    ToolResults,
    UserText,
    call_result,
)
from events.environment import ToolCallCompleted, ToolCallFailed, ToolCallInterrupted, ToolCallUncertain
from events.kernel import Event
from events.run import (
    AgentReminded,
    AnswerReceived,
    ModelResponded,
    RunResumed,
    RunStarted,
    ToolCallRefused,
    ToolCallRequested,
)

RUN = "shop-7-development-1"
BIG = Stored(digest="ab" * 32, size_bytes=70_000)


def started(prompt: str = "Mend the bug.") -> RunStarted:
    return RunStarted(
        task_id="shop-7",
        stage="development",
        attempt=1,
        environment_id="shop-7-development",
        agent_name="coder",
        agent=ModelAgent(provider="scripted"),
        prompt=prompt,
        system="",
        tools=("shell",),
        limits=Limits(),
        host="h",
        runner="r",
    )


def requested(call_id: str, tool: str = "shell", arguments: str = "{}") -> ToolCallRequested:
    return ToolCallRequested(call_id=call_id, step=1, tool=tool, arguments=Inline(arguments), effects="workspace")


def completed(call_id: str, text: str = "ok", exit_code: int | None = 0) -> ToolCallCompleted:
    return ToolCallCompleted(
        call_id=call_id, run_id=RUN, tool="shell", duration_ms=1, content=Inline(text), exit_code=exit_code
    )


def made(call_id: str) -> CallMade:
    return CallMade(call_id=call_id, tool="shell", arguments=Inline("{}"))


def conversation(*events: Event) -> Conversation:
    result = Conversation()
    for event in events:
        result.apply(event)
    return result


def test_a_turn_and_its_results_follow_the_prompt() -> None:
    """Prompt, answer with its call, result: in this order, each as one message."""
    talk = conversation(
        started(), ModelResponded(step=1, text="I look."), requested("c1"), completed("c1", "main.py\n")
    )

    assert [
        UserText("Mend the bug."),
        AssistantTurn(text="I look.", calls=(made("c1"),)),
        ToolResults((CallResult(call_id="c1", content=Inline("main.py\n")),)),
    ] == talk.messages
    assert talk.open_calls == []
    assert talk.turns == 1


def test_results_wait_for_one_another_and_stand_in_the_order_of_the_requests() -> None:
    """Calls that end in any order are shown in one message, in the order in which they were asked for."""
    talk = conversation(started(), ModelResponded(step=1), requested("c1"), requested("c2"), completed("c2", "two"))

    assert talk.open_calls == ["c1"]
    assert isinstance(talk.messages[-1], AssistantTurn)

    talk.apply(completed("c1", "one"))

    assert isinstance(talk.messages[-1], ToolResults)
    assert [result.call_id for result in talk.messages[-1].results] == ["c1", "c2"]
    assert talk.result_of("c2") == CallResult(call_id="c2", content=Inline("two"))
    assert talk.result_of("c3") is None


def test_calls_of_another_run_in_the_same_environment_are_ignored() -> None:
    """An environment is shared by runs: what answers a call that this run did not make changes nothing."""
    talk = conversation(started(), ModelResponded(step=1), requested("c1"), completed("other-run-c1"))

    assert talk.open_calls == ["c1"]
    assert len(talk.messages) == 2


def test_the_first_result_of_a_call_counts() -> None:
    """What the model was shown is not changed by a result that arrives once more."""
    talk = conversation(started(), ModelResponded(step=1), requested("c1"), completed("c1", "one"))
    before = list(talk.messages)

    talk.apply(completed("c1", "another"))

    assert before == talk.messages


def test_calls_refused_within_the_decision_that_requests_them_stay_in_one_turn() -> None:
    """A call refused before the next one of the same answer is requested does not split the turn."""
    talk = conversation(
        started(),
        ModelResponded(step=1),
        requested("c1"),
        ToolCallRefused(call_id="c1", cause="unknown-tool", detail="there is no tool 'x'"),
        requested("c2"),
    )

    assert talk.open_calls == ["c2"]
    assert AssistantTurn(calls=(made("c1"), made("c2"))) == talk.messages[-1]

    talk.apply(completed("c2"))

    assert isinstance(talk.messages[-1], ToolResults)
    assert [result.call_id for result in talk.messages[-1].results] == ["c1", "c2"]
    assert len(talk.messages) == 3


def test_closing_open_calls_makes_the_turn_whole() -> None:
    """Calls that will never be answered get a synthetic result; a late one is then ignored."""
    talk = conversation(started(), ModelResponded(step=1), requested("c1"), requested("c2"), completed("c1"))

    talk.close_open_calls("interrupted: the run was forked here")
    talk.apply(completed("c2", "late"))

    expected = CallResult(call_id="c2", note="interrupted: the run was forked here", is_error=True)
    assert expected == talk.result_of("c2")
    assert talk.open_calls == []
    assert len(talk.messages) == 3


def test_a_turn_left_with_open_calls_is_closed_before_anything_else_is_said() -> None:
    """History in which an answer follows an unanswered call still gives a conversation that providers take."""
    talk = conversation(started(), ModelResponded(step=1), requested("c1"), AgentReminded(text="Go on."))

    assert ToolResults((CallResult(call_id="c1", note=INTERRUPTED, is_error=True),)) == talk.messages[2]
    assert UserText("Go on.") == talk.messages[3]


def test_a_reminder_is_said_by_the_user() -> None:
    """An answer without calls is followed by what the model was told, with nothing in between."""
    talk = conversation(started(), ModelResponded(step=1, text="Done!"), AgentReminded(text="Call submit."))

    assert [AssistantTurn(text="Done!"), UserText("Call submit.")] == talk.messages[1:]


def test_events_that_say_nothing_to_the_model_change_nothing() -> None:
    """A resume, for one, is no part of the conversation."""
    talk = conversation(started(), RunResumed(epoch=2, host="h", runner="r", after="run started"))

    assert [UserText("Mend the bug.")] == talk.messages


@pytest.mark.parametrize(
    ("event", "text", "is_error"),
    [
        (completed("c1", "fine\n"), "fine\n", False),
        (completed("c1", "boom\n", 2), "boom\n[exit code 2]", False),
        (completed("c1", "boom", -9), "boom\n[exit code -9]", False),
        (completed("c1", "", 0), "[no output]", False),
        (completed("c1", "", 1), "[exit code 1]", False),
        (completed("c1", "", None), "", False),
        (
            ToolCallFailed(call_id="c1", run_id=RUN, tool="read_file", cause="not-found", detail="no file a.py"),
            "not-found: no file a.py",
            True,
        ),
        (
            ToolCallFailed(
                call_id="c1", run_id=RUN, tool="shell", cause="timed-out", detail="60 s", content=Inline("so far")
            ),
            "so far\ntimed-out: 60 s",
            True,
        ),
        (
            ToolCallInterrupted(call_id="c1", run_id=RUN, tool="shell", reason="the run was cancelled"),
            "interrupted: the run was cancelled",
            True,
        ),
        (
            ToolCallRefused(call_id="c1", cause="invalid-arguments", detail="no JSON"),
            "invalid-arguments: no JSON",
            True,
        ),
        (AnswerReceived(call_id="c1", answer="Use UTC."), "Use UTC.", False),
        (
            ToolCallUncertain(
                call_id="c1", run_id=RUN, tool="deploy", resolution="told-agent", detail="nobody knows whether it ran"
            ),
            "uncertain: nobody knows whether it ran",
            True,
        ),
    ],
)
def test_what_the_model_is_told(event: Event, text: str, is_error: bool) -> None:
    """Each way in which a call can end has its words."""
    result = call_result(event)

    assert result is not None
    assert isinstance(result.content, Inline)
    assert text == result.shown(result.content.text)
    assert is_error == result.is_error


@pytest.mark.parametrize("resolution", ["execute-again", "restore-and-execute-again"])
def test_an_uncertain_call_that_is_executed_again_stays_open(resolution: str) -> None:
    """Its result is still to come; until then the model is told nothing."""
    uncertain = ToolCallUncertain(call_id="c1", run_id=RUN, tool="shell", resolution=resolution, detail="shim gone")
    talk = conversation(started(), ModelResponded(step=1), requested("c1"), uncertain)

    assert talk.open_calls == ["c1"]


def test_content_by_reference_stays_a_reference() -> None:
    """The fold does no input or output: a stored result keeps its digest, its note beside it."""
    event = ToolCallCompleted(call_id="c1", run_id=RUN, tool="shell", duration_ms=1, content=BIG, exit_code=1)
    talk = conversation(started(), ModelResponded(step=1), requested("c1"), event)

    assert CallResult(call_id="c1", content=BIG, note="[exit code 1]") == talk.result_of("c1")


_ids = st.sampled_from([f"c{number}" for number in range(6)])
_events = st.one_of(
    st.just(started()),
    st.builds(ModelResponded, step=st.just(1), text=st.sampled_from(["", "hm"])),
    st.builds(requested, _ids),
    st.builds(completed, _ids),
    st.builds(lambda id: ToolCallRefused(call_id=id, cause="x", detail="y"), _ids),
    st.just(AgentReminded(text="go on")),
)


@settings(deadline=None)
@given(st.lists(_events, max_size=60))
def test_no_history_leaves_an_unmatched_call(events: list[Event]) -> None:
    """Whatever the order of events: every turn with calls is followed at once by exactly their results, and only the
    last one can be open."""
    talk = conversation(*events)
    talk.close_open_calls()

    seen: set[str] = set()
    for place, message in enumerate(talk.messages):
        before = talk.messages[place - 1] if place else None
        if isinstance(message, ToolResults):
            assert isinstance(before, AssistantTurn)
            assert [call.call_id for call in before.calls] == [result.call_id for result in message.results]
        elif isinstance(before, AssistantTurn):
            assert not before.calls
        if isinstance(message, AssistantTurn):
            ids = {call.call_id for call in message.calls}
            assert len(ids) == len(message.calls)
            assert not ids & seen
            seen |= ids
    assert talk.open_calls == []
    assert not talk.messages or not getattr(talk.messages[-1], "calls", ())


def test_the_cost_of_an_event_does_not_grow_with_those_before_it() -> None:
    """The last two thousand of twenty thousand steps take about as long as the first two thousand."""
    talk = conversation(started())
    seconds = []
    for block in range(10):
        begin = time.process_time()
        for number in range(block * 2_000, (block + 1) * 2_000):
            talk.apply(ModelResponded(step=number))
            talk.apply(requested(f"c{number}"))
            talk.apply(completed(f"c{number}"))
        seconds.append(time.process_time() - begin)

    assert len(talk.messages) == 40_001
    assert min(seconds[-3:]) < 4 * max(seconds[:3])
