"""Why a task does not run: every obstacle that the read models can tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from events.task import StageResult
from events.task_state import Question
from infra.ports import RunLease
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


def on_worker(**changes: Any) -> Situation:
    """A run that began."""
    stages = (stage("development", "running", run_id="r-1"),)
    values = {"begun": {"r-1": NOW}, "hosts": ("other", "vm"), "lease_seconds": 15.0, **changes}
    return situation("running", stages=stages, **values)


def lease(**times: float) -> RunLease:
    return RunLease(run_id="r-1", runner="vm-1", host="vm", **times)


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
        (on_worker(held=None), [], "It runs: development (r-1)."),
        (on_worker(held={"r-1": lease(silent_seconds=4.0, lapses_seconds=11.0)}), [], "It runs: development (r-1)."),
        (
            on_worker(held={"r-1": lease(silent_seconds=9.0, lapses_seconds=6.0)}),
            ["silent-lease"],
            "vm-1 on vm holds r-1, and has not been heard of since 2025-12-31T23:59:51+00:00; unless it is, another "
            "worker takes it over in 6 s.",
        ),
        (
            on_worker(held={"r-2": lease()}),
            ["no-lease"],
            "No worker holds the lease of r-1, which got no further since 2026-01-01T00:00:00+00:00. It will be taken "
            "over within 15 s by one that has room, of other, vm.",
        ),
        (
            on_worker(held={}, begun={}),
            ["no-lease"],
            "No worker has taken up r-1 yet. It will be taken over within 15 s",
        ),
        (on_worker(held={}, hosts=()), ["no-lease"], "None is heard of: it goes on when one is."),
        (on_worker(held={}, ended=("r-1",)), [], "It runs: development (r-1)."),
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
