"""Which points of a log are tried: those that every task like the undisturbed one gets to."""

from __future__ import annotations

from infra.faults.account import account_of
from infra.faults.laboratory import Trial
from infra.faults.log_proxy import Append


def test_only_what_a_task_must_append_counts() -> None:
    """Not what was appended beside it, or to recover: the next task would never get to the last points."""
    decisions = (("TaskSubmitted",), ("RunStarted",), ("RunInterrupted", "RunResumed"), ("RunSucceeded", "RunResumed"))
    trial = Trial(
        task="lab-1",
        decisions=decisions,
        account=account_of("lab-1", []),
        appends=tuple(Append(number, "chaos", "evt.default.chaos.host") for number in range(1, 8)),
        struck=None,
        seconds=1.0,
    )
    assert trial.certain_appends == 3
