"""What a run knows of its own past: above all which of its time counts."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from events.content import Inline
from events.envelope import Envelope, Recorded
from events.environment import ENVIRONMENT, ToolCallCompleted
from events.run import RUN, AnswerReceived, ModelResponded, Run, RunResumed, ToolCallRequested
from infra.clock import SystemClock
from infra.entities import Cause, EntityStore
from infra.memory.plumbing import Memory
from services.agent_runner.history import History
from services.agent_runner.snapshots import STEPS_BETWEEN, RunSnapshots
from services.agent_runner.watch import Watch
from tests.unit.examples import NOW


def history() -> History:
    return History("shop-1-development-1", "shop-1-development", "shop-1", lambda: None)


def after(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def resumed(epoch: int = 2) -> RunResumed:
    return RunResumed(epoch=epoch, host="here", runner="other", after="answer 1 of the model")


def test_time_without_a_runner_does_not_count() -> None:
    """From the last thing that happened to the run until somebody took it again."""
    run = history()
    run.add_own((ModelResponded(step=1),), NOW)
    run.add_own((resumed(),), NOW + after(3600))
    run.add_own((ModelResponded(step=2),), NOW + after(3610))
    run.add_own((resumed(3),), NOW + after(3620))
    assert run.uncounted == after(3610)


def test_waiting_for_a_person_is_counted_out_once() -> None:
    """Also where the runner changed while the question was open."""
    run = history()
    ask = ToolCallRequested(call_id="c1", step=1, tool="ask_human", arguments=Inline("{}"), effects="none")
    run.add_own((ModelResponded(step=1), ask), NOW)
    run.add_own((resumed(),), NOW + after(50))
    run.add_own((AnswerReceived(call_id="c1", answer="yes"),), NOW + after(100))
    assert run.uncounted == after(100)


async def test_a_history_begins_with_its_snapshot_and_ends_where_a_whole_one_does(tmp_path: Path) -> None:
    """Run, environment, conversation and the time that counts are the same either way."""
    memory = Memory()
    clock = SystemClock()
    runs, environments = EntityStore(memory.log, RUN, clock), EntityStore(memory.log, ENVIRONMENT, clock)

    async def steps(numbers: range) -> None:
        for step in numbers:
            call = ToolCallRequested(
                call_id=f"c{step}", step=step, tool="shell", arguments=Inline("{}"), effects="none"
            )
            answer = ModelResponded(step=step, text=f"step {step}", output_tokens=1)
            await runs.decide("r", Cause(id=f"r{step}"), lambda run, e=(answer, call): e)  # type: ignore[misc]
            end = ToolCallCompleted(call_id=call.call_id, run_id="r", tool="shell", duration_ms=1)
            await environments.decide("e", Cause(id=f"e{step}"), lambda state, end=end: (end,))  # type: ignore[misc]

    async def loaded(directory: Path | None) -> tuple[History, EntityStore[Run]]:
        history, store = History("r", "e", "t", lambda: None), EntityStore(memory.log, RUN, clock)
        await RunSnapshots("r", directory).load(history, store, memory.log, Watch(memory.log), None)
        return history, store

    await steps(range(1, STEPS_BETWEEN + 1))
    await loaded(tmp_path)
    assert (tmp_path / "r").exists()
    await steps(range(STEPS_BETWEEN + 1, STEPS_BETWEEN + 4))
    history, store = await loaded(tmp_path)
    whole, whole_store = await loaded(None)
    assert history.conversation.messages == whole.conversation.messages
    assert history.conversation.turns == STEPS_BETWEEN + 3
    assert history.environment == whole.environment
    assert history.uncounted == whole.uncounted
    assert store.peek("r") == whole_store.peek("r")


def test_result_that_comes_before_the_answer_to_its_request_counts() -> None:
    """Another process may dispatch a call as soon as it is in the log, before the one that appended it knows."""
    run = history()
    call = ToolCallRequested(
        call_id="shop-1-development-1-c1", step=1, tool="shell", arguments=Inline("{}"), effects="workspace"
    )
    ended = ToolCallCompleted(call_id=call.call_id, run_id="shop-1-development-1", tool="shell", duration_ms=1)
    envelope = Envelope(
        id="end", tenant="default", entity="environment", entity_id="shop-1-development", time=NOW, events=(ended,)
    )
    run._early = None  # It was loaded.
    run.receive(Recorded(7, envelope))
    run.add_own((ModelResponded(step=1), call), NOW)
    assert run.conversation.open_calls == []
    assert run.conversation.result_of(call.call_id) is not None
