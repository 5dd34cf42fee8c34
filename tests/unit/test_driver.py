"""Driving a run: taken, interrupted, taken up by another, cancelled, out of time; what is sent and what is reported."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from events.agents import Limits
from events.environment import ExecuteTool, InterruptCall, PrepareEnvironment
from events.errors import Fenced
from events.run import RunCancelled, RunTimedOut
from events.task import (
    AnswerQuestion,
    AskQuestion,
    CancelTask,
    RecordRunFailed,
    RecordRunSucceeded,
    RunFailureRecorded,
)
from infra.entities import Cause
from services.scheduler.deciders import task as task_decider
from tests.unit.examples import NOW, kinds
from tests.unit.runner_twins import ASK, LIST, SUBMIT, Runs, ended
from tests.waiting import until


@pytest.fixture
async def runs() -> Runs:
    runs = Runs()
    await runs.ask_for_the_run()
    return runs


async def test_run_goes_to_its_end_and_is_reported(runs: Runs) -> None:
    """With the summary that the agent submitted and the checkpoint of its last call."""
    runs.model.say(LIST)
    runs.model.say(SUBMIT)
    await (await runs.drive())
    assert kinds(await runs.events()) == [
        "RunStarted",
        "ModelResponded",
        "ToolCallRequested",
        "ModelResponded",
        "ToolCallRequested",
        "RunSucceeded",
    ]
    (report,) = runs.bus.sent(RecordRunSucceeded)
    assert isinstance(report, RecordRunSucceeded)
    assert (report.result.summary, report.result.commit) == ("Mended.", "c1")


async def test_successor_takes_up_what_is_open(runs: Runs) -> None:
    """The call is sent again under its own id, the model is not asked again for what it has answered."""
    runs.bus.answering = False
    runs.model.say(LIST)
    first = await runs.drive()
    await until(lambda: runs.bus.sent(ExecuteTool))
    first.cancel()
    runs.bus.answering = True
    runs.model.say(SUBMIT)
    await (await runs.drive())
    sent = runs.bus.sent(ExecuteTool)
    assert len({command.call_id for command in sent}) == 1  # type: ignore[attr-defined]
    assert len(runs.model.asked) == 2
    assert "RunResumed" in kinds(await runs.events())


async def test_successor_finds_results_that_came_meanwhile(runs: Runs) -> None:
    """Then nothing is sent again."""
    runs.bus.answering = False
    runs.model.say(LIST)
    first = await runs.drive()
    await until(lambda: runs.bus.sent(ExecuteTool))
    first.cancel()
    (call,) = runs.bus.sent(ExecuteTool)
    result = ended(call.call_id)  # type: ignore[attr-defined]
    await runs.environments.decide("shop-1-development", Cause(id="late"), lambda state: (result,))
    runs.model.say(SUBMIT)
    await (await runs.drive())
    assert len(runs.bus.sent(ExecuteTool)) == 1


async def test_older_holder_is_fenced(runs: Runs) -> None:
    """It appends nothing and reports nothing, though its model has answered."""
    first = await runs.drive()
    await until(lambda: runs.model.asked)
    second = await runs.drive()
    await until(lambda: len(runs.model.asked) == 2)
    runs.model.say(SUBMIT)
    with pytest.raises(Fenced):
        await first
    assert runs.bus.sent(RecordRunSucceeded) == []
    runs.model.say(SUBMIT)
    await second
    assert kinds(await runs.events()).count("RunSucceeded") == 1


async def test_two_that_take_a_run_at_once_hold_different_epochs(runs: Runs) -> None:
    """Neither takes the other's decision for its own."""
    both = [await runs.drive(), await runs.drive()]
    await until(lambda: len(runs.model.asked) == 2)
    said = kinds(await runs.events())
    assert (said.count("RunStarted"), said.count("RunResumed")) == (1, 1)
    runs.model.say(SUBMIT)
    runs.model.say(SUBMIT)
    done = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(result).__name__ for result in done) == ["Fenced", "NoneType"]


async def test_cancelled_task_ends_its_run_while_the_model_thinks(runs: Runs) -> None:
    """At once, with the reason."""
    driving = await runs.drive()
    await until(lambda: runs.model.asked)
    await runs.decide_task(lambda task: task_decider.cancel(task, CancelTask(reason="changed my mind")))
    await driving
    assert (await runs.events())[-1] == RunCancelled(reason="changed my mind")


async def test_run_of_an_ended_task_prepares_nothing(runs: Runs) -> None:
    """It was cancelled while it waited for a runner."""
    await runs.decide_task(lambda task: task_decider.cancel(task, CancelTask()))
    await (await runs.drive())
    assert kinds(await runs.events()) == ["RunStarted", "RunCancelled"]
    assert runs.bus.sent(PrepareEnvironment) == []


async def test_run_that_nobody_asks_for_any_more_ends(runs: Runs) -> None:
    """Its task went on without it: another attempt is about to use the same workspace."""
    driving = await runs.drive()
    await until(lambda: runs.model.asked)
    failed = RunFailureRecorded(stage="development", run_id="shop-1-development-1", cause="c", detail="d", retry_at=NOW)
    await runs.decide_task(lambda task: (failed,))
    await driving
    (end,) = [event for event in await runs.events() if isinstance(event, RunCancelled)]
    assert "does not ask for this run" in end.reason


async def test_run_out_of_time_interrupts_its_calls() -> None:
    """And is reported as one that may be tried again."""
    runs = Runs(limits=Limits(seconds=60.0))
    await runs.ask_for_the_run()
    runs.bus.answering = False
    runs.model.say(LIST, LIST)
    driving = await runs.drive()
    await until(lambda: len(runs.bus.sent(ExecuteTool)) == 2)
    runs.clock.by = timedelta(seconds=61)
    await driving
    assert (await runs.events())[-1] == RunTimedOut(limit_seconds=60.0)
    assert len(runs.bus.sent(InterruptCall)) == 2
    (report,) = runs.bus.sent(RecordRunFailed)
    assert report.retryable  # type: ignore[attr-defined]


async def test_answers_that_come_together_are_all_taken(runs: Runs) -> None:
    """Though the second comes while the first is being recorded."""
    runs.model.say(ASK, ASK)
    runs.model.say(SUBMIT)
    driving = await runs.drive()
    await until(lambda: len(runs.bus.sent(AskQuestion)) == 2)
    for question in runs.bus.sent(AskQuestion):
        await runs.decide_task(lambda task, question=question: task_decider.ask(task, question))
        answer = AnswerQuestion(call_id=question.call_id, answer="EUR")  # type: ignore[attr-defined]
        await runs.decide_task(lambda task, answer=answer: task_decider.answer(task, answer))
    await asyncio.wait_for(driving, 5)
    assert kinds(await runs.events()).count("AnswerReceived") == 2


async def test_time_that_people_take_is_free_but_nobody_was_asked_a_refused_question() -> None:
    """A question that was refused does not stop the clock for ever."""
    runs = Runs(limits=Limits(seconds=60.0))
    await runs.ask_for_the_run()
    runs.model.say(ASK)
    driving = await runs.drive()
    await until(lambda: runs.bus.sent(AskQuestion))
    runs.clock.by = timedelta(hours=1)
    (question,) = runs.bus.sent(AskQuestion)
    await runs.decide_task(lambda task: task_decider.ask(task, question))
    await runs.decide_task(lambda task: task_decider.answer(task, AnswerQuestion(answer="EUR")))
    await until(lambda: len(runs.model.asked) == 2)
    runs.model.say(type(ASK)(tool="ask_human", arguments="{}"))
    await until(lambda: len(runs.model.asked) == 3)
    assert not driving.done()
    runs.clock.by += timedelta(seconds=61)
    await driving
    assert (await runs.events())[-1] == RunTimedOut(limit_seconds=60.0)
