"""How the work on a run unwinds, to its end or back to where the world is compared with the log; and what ends mean."""

from __future__ import annotations

from events.run import (
    RUN_ENDS,
    RunAbandoned,
    RunCancelled,
    RunCrashed,
    RunCrashLooped,
    RunEnd,
    RunFellSilent,
    RunOverBudget,
    RunRefused,
    RunStalled,
    RunStarved,
    RunTimedOut,
    RunUnprepared,
)
from events.task import RecordRunFailed


class Ending(Exception):
    """Unwinds to the end of the run; carries how it ended."""

    def __init__(self, event: RunEnd) -> None:
        super().__init__(type(event).__name__)
        self.event = event


class Unsettled(Exception):
    """The workspace is gone or has diverged while the agent was at work: everything is looked at again first."""


def failure(stage: str, run_id: str, ended: RunEnd, *, jitter: float) -> RecordRunFailed:
    """What the task is told of a run that did not succeed; ``jitter`` (0–1) spreads what waits for one provider."""
    starved = ended if isinstance(ended, RunStarved) else None
    return RecordRunFailed(
        stage=stage,
        run_id=run_id,
        cause=RUN_ENDS[type(ended)],
        detail=failure_text(ended),
        retryable=is_retryable(ended),
        transient=starved is not None,
        retry_after_seconds=starved.retry_after_seconds if starved is not None else 0.0,
        jitter=jitter,
    )


def is_retryable(ended: RunEnd) -> bool:
    """Whether another attempt could end otherwise."""
    if isinstance(ended, RunUnprepared):
        return ended.retryable
    return not isinstance(ended, RunOverBudget | RunRefused | RunCrashLooped | RunCancelled | RunAbandoned)


def failure_text(ended: RunEnd) -> str:
    """How the run ended, in a sentence for people and for the next attempt."""
    match ended:
        case RunCrashed(exit_code=code, detail=detail):
            return f"the program ended with exit code {code}. {detail}".strip() if code is not None else detail
        case RunTimedOut(limit_seconds=limit):
            return f"it ran longer than its limit of {limit:g} s"
        case RunFellSilent(limit_seconds=limit):
            return f"nothing was heard of it for {limit:g} s"
        case RunOverBudget(budget=budget, limit=limit, used=used):
            return f"its budget of {limit:g} {budget} is used up ({used:g})"
        case RunRefused(detail=detail) | RunStalled(detail=detail) | RunUnprepared(detail=detail):
            return detail
        case RunStarved(failures=failures, detail=detail):
            return f"the model could not be reached {failures} times in a row: {detail}"
        case RunCrashLooped(epochs=epochs):
            return f"its runners died {epochs} times without getting further"
        case RunCancelled(reason=reason):
            return reason
        case RunAbandoned(kind=kind, by=by):
            return f"its {kind} had diverged from the log, and it was given up by {by or 'somebody'}"
        case _:
            return ""
