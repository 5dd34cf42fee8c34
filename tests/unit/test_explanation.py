"""Why a task does not run: every obstacle that the read models can tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from events.task import StageResult
from events.task_state import Question
from projections.task import StageView
from services.gateway.explanation import Situation, explain

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def stage(name: str, status: str, **changes: Any) -> StageView:
    values: dict[str, Any] = {
        "needs": (),
        "role": "developer",
        "gate": "",
        "approval": False,
        "attempt": 1,
        "failures": 0,
        "rework": 0,
        "run_id": "",
        "check_id": "",
        "retry_at": None,
        "cause": "",
        "findings": "",
        "result": StageResult(),
    }
    return StageView(name=name, status=status, **{**values, **changes})


def situation(status: str = "queued", **changes: Any) -> Situation:
    values: dict[str, Any] = {
        "reason": "",
        "stages": (stage("development", "waiting"),),
        "questions": (),
        "needs": {},
        "running": (),
        "project_limit": 3,
        "running_overall": 0,
        "overall_limit": 10,
    }
    return Situation(task_id="shop-7", status=status, **{**values, **changes})


@pytest.mark.parametrize(
    ("given", "kinds", "words"),
    [
        (situation(), [], "Nothing stands in its way"),
        (
            situation(providers=("the key failed 3 times in a row",), programs=("'claude' is not there on here",)),
            ["breaker-open", "preflight"],
            "the key failed 3 times in a row. 'claude' is not there on here.",
        ),
        (
            situation("pending", needs={"shop-1": "running", "shop-2": "completed"}),
            ["dependencies"],
            "shop-1 (running)",
        ),
        (
            situation("needs_input", questions=(Question(run_id="r", call_id="c", question="Which port?"),)),
            ["needs-input"],
            "Which port?",
        ),
        (
            situation("queued", questions=(Question(run_id="r", call_id="c", question="Which port?", answer="80"),)),
            [],
            "Nothing stands",
        ),
        (situation("in_review", stages=(stage("plan", "awaiting_approval"),)), ["needs-approval"], "plan waits"),
        (
            situation(stages=(stage("development", "waiting", retry_at=NOW + timedelta(seconds=9)),)),
            ["retry-at"],
            "2026-01-01T00:00:09",
        ),
        (
            situation(stages=(stage("development", "waiting", retry_at=NOW - timedelta(seconds=9)),)),
            [],
            "Nothing stands",
        ),
        (situation(running=("a-1", "b-1", "c-1")), ["project-limit"], "3 of 3 agents of the project run already: a-1"),
        (situation(running_overall=10), ["overall-limit"], "10 of 10"),
        (situation("running", stages=(stage("development", "running", run_id="r-1"),)), [], "It runs: development"),
        (situation("running", running=("a", "b", "c"), stages=(stage("test", "checking"),)), [], "It runs: test"),
        (situation("completed", needs={"shop-1": "failed"}), [], "It has ended: completed."),
        (situation("failed", reason="the agent crashed"), [], "the agent crashed"),
    ],
)
def test_obstacles(given: Situation, kinds: list[str], words: str) -> None:
    """Each situation names what stands in the way, and says so in a sentence."""
    found = explain(given, NOW)
    assert kinds == [obstacle.kind for obstacle in found.obstacles]
    assert words in found.summary
    assert given.status == found.status
