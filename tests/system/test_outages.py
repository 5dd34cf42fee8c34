"""Servers that are away for ten seconds, a stack that stops in the middle, a runner that is frozen past its lease."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.model_server import ModelServer, slow
from tests.system import conftest
from tests.system.checks import (
    assert_calls_ended_once,
    assert_heard_once,
    assert_read_models_equal_a_rebuild,
    requests_of,
)
from tests.system.conftest import running
from tests.system.examples import MEND, TEST_COMMAND, lines, numbers, repository, shell, submit, until_exists
from tests.system.stack import API, SystemStack, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

# Longer than a process is kept from its work by others; the servers are away for longer still.
WORKER = {"lease_seconds": 4.0}
AWAY_SECONDS = 10.0
# Longer than any test waits for a run to go on: one that does go on was given back.
LEASE_SECONDS = 60.0


def begin(stack: SystemStack, model: ModelServer, tmp_path: Path, name: str, kind: str) -> str:
    """A task whose command prints, waits for the file ``go``, prints again and mends the greeting."""
    ran = tmp_path / f"ran-{kind}"
    command = (
        f"echo begun >> '{ran}'; seq 1 500; {until_exists(tmp_path / 'go')}; seq 501 1000; {MEND};echo ended >> '{ran}'"
    )
    title = f"{name} under a {kind}"
    model.add(title, [shell(command), shell("cat greeting.txt"), submit()])
    stack.agent(f"{name}-program", kind="program", command=["bash", "-c", command])
    task = stack.submit(name, title, agent=f"{name}-program" if kind == "program" else "anthropic")
    wait_until(lambda: lines(ran) == ["begun"], "the command runs")
    return task


def assert_done_once(stack: SystemStack, tmp_path: Path, task: str, kind: str) -> None:
    assert lines(tmp_path / f"ran-{kind}") == ["begun", "ended"]
    output = stack.cairn("logs", f"{task}-development-1")
    assert output == numbers(1, 1000) + ("Hello, world\n" if kind == "model" else "")
    assert stack.feed.all("ToolCallUncertain", task) == []
    assert_calls_ended_once(stack, task)


def test_nats_away_for_ten_seconds(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """Processes go on while the log is away; afterwards both runs complete, with nothing lost and nothing repeated."""
    stack.project("nats", repository(tmp_path / "repository"), test_command=TEST_COMMAND)
    tasks = {kind: begin(stack, model, tmp_path, "nats", kind) for kind in ("model", "program")}
    with stack.away("nats-server"):
        began = time.monotonic()
        (tmp_path / "go").touch()
        refused = stack.http.post(f"{API}/tasks/{tasks['model']}/cancel", json={})
        assert refused.status_code == 503
        assert "try again" in refused.json()["detail"]
        time.sleep(max(0.0, began + AWAY_SECONDS - time.monotonic()))
    for kind, task in tasks.items():
        ended = stack.feed.ended(task)
        assert_done_once(stack, tmp_path, task, kind)
    assert_heard_once(stack, ended)
    assert_read_models_equal_a_rebuild(stack)


def test_postgres_away_for_ten_seconds(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """Work goes on without the read models, which lack nothing afterwards."""
    stack.project("postgres", repository(tmp_path / "repository"), test_command=TEST_COMMAND)
    tasks = {kind: begin(stack, model, tmp_path, "postgres", kind) for kind in ("model", "program")}
    with stack.away("postgres"):
        began = time.monotonic()
        (tmp_path / "go").touch()
        for task in tasks.values():
            stack.feed.ended(task)
        refused = stack.http.get(f"{API}/tasks")
        assert refused.status_code == 503
        assert "PostgreSQL" in refused.json()["detail"]
        time.sleep(max(0.0, began + AWAY_SECONDS - time.monotonic()))
    for kind, task in tasks.items():
        assert stack.get(f"/tasks/{task}", wait_for=stack.last_sequence())["status"] == "completed"
        assert_done_once(stack, tmp_path, task, kind)
    assert_read_models_equal_a_rebuild(stack)


def test_stopped_and_started_again(model: ModelServer, tmp_path: Path) -> None:
    """SIGTERM to `cairn up` in the middle of a run: the command ends while nothing runs, and the next `cairn up`
    takes its result and goes on."""
    home = tmp_path / "home"
    home.mkdir()
    stack = running(home, model, {"worker": {**conftest.WORKER, "lease_seconds": LEASE_SECONDS}})
    with stack.up():
        stack.project("stopped", repository(tmp_path / "repository"), test_command=TEST_COMMAND)
        tasks = {kind: begin(stack, model, tmp_path, "stopped", kind) for kind in ("model", "program")}
    (tmp_path / "go").touch()
    wait_until(lambda: all(lines(tmp_path / f"ran-{kind}") == ["begun", "ended"] for kind in tasks), "both end")
    with stack.up():
        for kind, task in tasks.items():
            ended = stack.feed.ended(task)
            assert_done_once(stack, tmp_path, task, kind)
            # The lease was given back at the stop, so that the same run went on, and at once.
            resumed, completed = stack.feed.until("RunResumed", task), stack.feed.until("ToolCallCompleted", task)
            assert resumed.event["epoch"] == 2
            assert (resumed.time - completed.time).total_seconds() < LEASE_SECONDS / 3
            assert len(stack.feed.all("RunRequested", task)) == 1
        assert_heard_once(stack, ended)


def test_a_frozen_runner_is_fenced(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """A runner that stands still past its lease loses the run to another; when it moves again, it appends nothing."""
    go, ran = tmp_path / "go", tmp_path / "ran"
    title = "Frozen in the middle"
    model.add(
        title,
        [
            shell(f"echo one >> '{ran}'"),
            # Only the first who asks waits for this answer: it comes while that one is frozen.
            shell(f"echo two >> '{ran}'; {until_exists(go)}; {MEND}", faults=(slow(0.5),)),
            submit(),
        ],
    )
    stack.project("frozen", repository(tmp_path / "repository"), test_command=TEST_COMMAND)
    task = stack.submit("frozen", title, agent="anthropic")
    started = stack.feed.until("RunStarted", task)
    wait_until(lambda: len(requests_of(model, title)) == 2, "the model is asked for the second step")
    frozen = stack.pid("agent-runner")
    os.kill(frozen, signal.SIGSTOP)
    try:
        with stack.another("agent-runner"):
            resumed = stack.feed.until("RunResumed", task)
            assert (resumed.event["epoch"], resumed.event["runner"] != started.event["runner"]) == (2, True)
            wait_until(lambda: lines(ran) == ["one", "two"], "the second command runs")
            os.kill(frozen, signal.SIGCONT)
            log = stack.home / "logs" / "agent-runner.log"
            wait_until(lambda: "fenced" in log.read_text(), "the first runner finds that it is fenced")
            go.touch()
            stack.feed.ended(task)
    finally:
        os.kill(frozen, signal.SIGCONT)
    afterwards = [item for item in stack.feed.happened if item.sequence > resumed.sequence]
    assert [item for item in afterwards if item.actor == started.event["runner"]] == []
    assert len(stack.feed.all("RunResumed", task)) == 1
    assert lines(ran) == ["one", "two"]
    assert len(stack.feed.all("ModelResponded", task)) == 3
    assert_calls_ended_once(stack, task)
