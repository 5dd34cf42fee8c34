"""What a run knows of its own past: above all which of its time counts."""

from __future__ import annotations

from datetime import timedelta

from events.content import Inline
from events.run import AnswerReceived, ModelResponded, RunResumed, ToolCallRequested
from services.agent_runner.history import History
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
