"""``kill -9`` of every service in the middle of a run: nothing is lost, nothing is done twice, the run ends right.

Commands that must wait for the test wait for a file of its own, so that every kill comes at a known place.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.model_server import ModelServer, slow
from tests.system.checks import (
    assert_calls_ended_once,
    assert_heard_once,
    assert_read_models_equal_a_rebuild,
    requests_of,
)
from tests.system.examples import (
    MEND,
    NEVER_SECONDS,
    TEST_COMMAND,
    lines,
    numbers,
    repository,
    shell,
    submit,
    until_exists,
)
from tests.system.stack import SystemStack, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def test_runner_killed_between_tool_result_and_next_model_step(
    stack: SystemStack, model: ModelServer, tmp_path: Path
) -> None:
    """The result is in the log and the model has been asked, but its answer is not there: the next runner asks the
    very same again, and executes nothing again."""
    ran = tmp_path / "ran"
    title = "Between result and step"
    model.add(title, [shell(f"echo ran >> '{ran}'; cat greeting.txt; {MEND}"), submit(faults=(slow(NEVER_SECONDS),))])
    stack.project("between", repository(tmp_path / "repository"), test_command=TEST_COMMAND)
    task = stack.submit("between", title, agent="anthropic")
    result = stack.feed.until("ToolCallCompleted", task)
    wait_until(lambda: len(requests_of(model, title)) == 2, "the model is asked for the second step")
    stack.kill("agent-runner")
    resumed = stack.feed.until("RunResumed", task)
    assert resumed.event["epoch"] == 2
    assert result.event["call_id"] in resumed.event["after"]
    stack.feed.ended(task)

    first, second, third = requests_of(model, title)
    assert second == third
    assert first["messages"] != second["messages"]
    assert "Helo, world" in str(second["messages"][-1])
    assert lines(ran) == ["ran"]
    assert len(stack.feed.all("ModelResponded", task)) == 2
    assert_calls_ended_once(stack, task)


def test_runner_killed_while_a_tool_runs(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """The tool does not notice; its result reaches the next runner."""
    go, ran = tmp_path / "go", tmp_path / "ran"
    title = "Killed while a tool runs"
    model.add(title, [shell(f"echo begun >> '{ran}'; {until_exists(go)}; echo ended >> '{ran}'; {MEND}"), submit()])
    stack.project("running", repository(tmp_path / "repository"), test_command=TEST_COMMAND)
    task = stack.submit("running", title, agent="openai")
    wait_until(lambda: lines(ran) == ["begun"], "the command runs")
    stack.kill("agent-runner")
    stack.feed.until("RunResumed", task)
    go.touch()
    stack.feed.ended(task)
    assert lines(ran) == ["begun", "ended"]
    assert stack.feed.all("ToolCallUncertain", task) == []
    assert_calls_ended_once(stack, task)


@pytest.mark.parametrize("kind", ["model", "program"])
def test_environment_manager_killed_while_a_process_runs(
    stack: SystemStack, model: ModelServer, tmp_path: Path, kind: str
) -> None:
    """The process goes on without it; its successor has all the output, in order, and the exit status."""
    go, ran, printed = tmp_path / "go", tmp_path / "ran", tmp_path / "printed"
    title = f"Killed under a {kind}"
    code = 7 if kind == "model" else 0
    command = (
        f"echo begun >> '{ran}'; seq 1 1000; {until_exists(printed)}; seq 1001 2000; echo printed >> '{ran}';"
        f"{until_exists(go)}; seq 2001 3000; {MEND}; exit {code}"
    )
    model.add(title, [shell(command), submit()])
    stack.agent("patient", kind="program", command=["bash", "-c", command])
    project = f"outlived-{kind}"
    stack.project(project, repository(tmp_path / "repository"), test_command=TEST_COMMAND)
    task = stack.submit(project, title, agent="patient" if kind == "program" else "anthropic")
    wait_until(lambda: lines(ran) == ["begun"], "the process runs")
    killed = stack.kill("environment-manager")
    # Half of the output comes while nobody listens, the rest to its successor.
    printed.touch()
    wait_until(lambda: lines(ran) == ["begun", "printed"], "the process goes on")
    stack.until_back("environment-manager", killed)
    go.touch()
    stack.feed.ended(task)

    end = stack.feed.until("ToolCallCompleted", task)
    assert (end.event["exit_code"], end.event["output_bytes"]) == (code, len(numbers(1, 3000)))
    assert stack.cairn("logs", f"{task}-development-1") == numbers(1, 3000)
    assert lines(ran) == ["begun", "printed"]
    assert stack.feed.all("ToolCallUncertain", task) == []
    assert_calls_ended_once(stack, task)


def has_begun(ran: Path, step: str) -> bool:
    return step in lines(ran)


@pytest.mark.parametrize(
    "service", ["scheduler", "agent-runner", "environment-manager", "projector", "gateway", "notifier"]
)
def test_killed_anywhere(stack: SystemStack, model: ModelServer, tmp_path: Path, service: str) -> None:
    """A service is killed again and again, from the submission to the gates: the task completes, each command ran
    once, each decision is heard once, and each person is told once."""
    ran = tmp_path / "ran"
    title = f"Kill the {service}"
    steps = ("one", "two", "three")
    turns = [shell(f"echo {step} >> '{ran}'; {until_exists(tmp_path / step)}; {MEND}") for step in steps]
    model.add(title, [*turns, submit()])
    project = f"kill-{service}"
    stack.project(project, repository(tmp_path / "repository"), test_command=TEST_COMMAND)
    task = stack.submit(project, title, agent="anthropic")
    pid = stack.kill(service)
    for step in steps:
        wait_until(partial(has_begun, ran, step), f"command {step} runs")
        stack.until_back(service, pid)
        pid = stack.kill(service)
        # What follows happens while it is away or comes back.
        (tmp_path / step).touch()
    stack.until_back(service, pid)
    stack.feed.until("CheckRequested", task)
    pid = stack.kill(service)
    ended = stack.feed.ended(task)
    stack.until_back(service, pid)

    assert lines(ran) == list(steps)
    assert_calls_ended_once(stack, task)
    assert len(stack.feed.all("PullRequestOpened", task)) == 1
    assert_heard_once(stack, ended)
    to_tell = ["PullRequestOpened", "TaskCompleted"]
    planned = [stack.feed.until("DeliveryPlanned", subject_id=task, event_type=kind).sequence for kind in to_tell]
    told = [row for row in stack.items("/deliveries", wait_for=max(planned)) if row["subject_id"] == task]
    assert sorted(row["event_type"] for row in told) == to_tell


def test_read_models_equal_a_rebuild_after_all_that(stack: SystemStack) -> None:
    """What the projector kept up to date through every kill is what a rebuild from the log gives."""
    assert_read_models_equal_a_rebuild(stack)
