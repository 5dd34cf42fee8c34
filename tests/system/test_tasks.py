"""What a person does with tasks: answer, cancel, retry, limit, ask why, depend, approve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.git_examples import git
from tests.model_server import Call, ModelServer, Turn
from tests.system.checks import assert_calls_ended_once, requests_of
from tests.system.examples import MEND, TEST_COMMAND, lines, repository, shell, submit, until_exists
from tests.system.stack import SystemStack, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

# The product's own: a process that does not listen has 20 s at its time limit, but not when it is cancelled.
WORKER = {"grace_seconds": 20.0}
# Of that the deaf are left 3 s; the rest is some tenths where the machine does nothing else.
CANCEL_SECONDS = 8.0


def test_a_question_is_asked_and_answered(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """The task waits for a person, over a restart of its runner; the model gets exactly the answer."""
    question = Turn(calls=(Call("ask_human", {"question": "Which greeting?"}),))
    model.add("Ask first", [question, shell(MEND), submit()])
    stack.project("asks", repository(tmp_path / "repository"), test_command=TEST_COMMAND)
    task = stack.submit("asks", "Ask first", agent="anthropic")
    asked = stack.feed.until("QuestionAsked", task)
    stack.get("/tasks", wait_for=asked.sequence)
    shown = stack.json("task", "show", task)
    assert shown["status"] == "needs_input"
    assert [item["question"] for item in shown["questions"]] == ["Which greeting?"]
    stack.kill("agent-runner")
    stack.feed.until("RunResumed", task)
    stack.cairn("task", "answer", task, "Hello, of course")
    stack.feed.ended(task)
    assert len(stack.feed.all("QuestionAsked", task)) == 1
    received = stack.feed.until("AnswerReceived", task)
    assert (received.event["call_id"], received.event["answer"]) == (asked.event["call_id"], "Hello, of course")
    assert '"content": "Hello, of course"' in json.dumps(requests_of(model, "Ask first")[1]["messages"][-1])
    assert "no open question" in stack.cairn("task", "answer", task, "too late", exit_code=1)


@pytest.mark.parametrize("kind", ["model", "program"])
def test_cancel_leaves_nothing(stack: SystemStack, model: ModelServer, tmp_path: Path, kind: str) -> None:
    """Within seconds the whole process tree is gone, daemons and the deaf too, and so is the worktree."""
    ran = tmp_path / "ran"
    command = (
        "trap '' TERM; (setsid sleep 1000 &) ; nohup sleep 1001 & "
        f"(trap '' TERM; sleep 1002 & wait) & echo begun >> '{ran}'; while true; do sleep 0.1; done"
    )
    title = f"Cancel a {kind}"
    model.add(title, [shell(command), submit()])
    stack.agent("deaf", kind="program", command=["bash", "-c", command])
    project = f"cancelled-{kind}"
    remote = repository(tmp_path / "repository")
    stack.project(project, remote)
    task = stack.submit(project, title, agent="deaf" if kind == "program" else "openai")
    wait_until(lambda: lines(ran) == ["begun"], "the command runs")
    environment = stack.get(f"/environments/{task}-development", wait_for=stack.last_sequence())
    workspace = Path(environment["workspace"])
    wait_until(lambda: len(stack.processes_below(workspace.parent)) >= 5, "its processes run")

    stack.cairn("task", "cancel", task, "--reason", "not needed")
    cancelled, removed = stack.feed.until("TaskCancelled", task), stack.feed.until("EnvironmentRemoved", task)
    wait_until(lambda: stack.processes_below(workspace.parent) == [], "nothing of it runs", CANCEL_SECONDS)
    wait_until(lambda: not workspace.parent.exists(), "its folder is gone", CANCEL_SECONDS)
    assert (removed.time - cancelled.time).total_seconds() < CANCEL_SECONDS

    stack.feed.until("RunCancelled", task)
    ended = stack.feed.until("ToolCallInterrupted", task)
    assert stack.get(f"/tasks/{task}", wait_for=ended.sequence)["status"] == "cancelled"
    assert git(remote, "worktree", "list").count("\n") == 0
    assert_calls_ended_once(stack, task)


def test_a_failed_task_is_retried(stack: SystemStack, tmp_path: Path) -> None:
    """Two attempts by itself, then it has failed for good; a person's retry begins where it stopped."""
    ready, ran = tmp_path / "ready", tmp_path / "ran"
    command = f"echo ran >> '{ran}'; {MEND}; echo 'not ready' >&2; [ -e '{ready}' ] || exit 3"
    stack.agent("unready", kind="program", command=["bash", "-c", command])
    stack.project("retried", repository(tmp_path / "repository"), test_command=TEST_COMMAND)
    task = stack.submit("retried", "Try twice", agent="unready")
    failed = stack.feed.ended(task, "TaskFailed")
    assert (failed.event["cause"], lines(ran)) == ("crashed", ["ran"] * 2)
    assert "exit code 3. not ready" in failed.event["detail"]
    stack.get("/tasks", wait_for=failed.sequence)
    assert stack.json("task", "show", task)["status"] == "failed"
    ready.touch()
    stack.cairn("task", "retry", task)
    stack.feed.ended(task, count=2)
    assert lines(ran) == ["ran"] * 3
    assert "is completed" in stack.cairn("task", "retry", task, exit_code=1)


@pytest.mark.parametrize(("budget", "limit", "steps"), [("steps", 3, 3), ("tokens", 250, 3)])
def test_a_budget_survives_a_kill(
    stack: SystemStack, model: ModelServer, tmp_path: Path, budget: str, limit: int, steps: int
) -> None:
    """What was used before the runner died counts: a turn is 110 tokens, and the run ends at its limit."""
    title = f"Limited {budget}"
    go, ran = tmp_path / "go", tmp_path / "ran"
    held = shell(f"echo ran >> '{ran}'; {until_exists(go)}")
    model.add(title, [shell("true"), held, *[shell("true")] * 5])
    stack.project(f"limited-{budget}", repository(tmp_path / "repository"))
    task = stack.submit(f"limited-{budget}", title, agent="openai", budget={budget: limit})
    wait_until(lambda: lines(ran) == ["ran"], "the second command runs")
    stack.kill("agent-runner")
    stack.feed.until("RunResumed", task)
    go.touch()
    failed = stack.feed.ended(task, "TaskFailed")
    assert failed.event["cause"] == "over_budget"
    over = stack.feed.until("RunOverBudget", task)
    used = steps if budget == "steps" else 110 * steps
    assert (over.event["budget"], over.event["limit"], over.event["used"]) == (budget, limit, used)
    assert len(stack.feed.all("ModelResponded", task)) == steps
    # Another attempt would use as much again.
    assert len(stack.feed.all("RunRequested", task)) == 1


def test_why_and_dependencies(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """Whoever waits says for what; the dependent task then starts from the work of the one that it depends on."""
    go, ran = tmp_path / "go", tmp_path / "ran"
    model.add("First of all", [shell(f"echo ran >> '{ran}'; {until_exists(go)}; {MEND}"), submit()])
    model.add("Then that", [shell("cat greeting.txt; echo 'Bye' > bye.txt"), submit()])
    model.add("Besides", [shell("echo more > more.txt"), submit()])
    remote = repository(tmp_path / "repository")
    stack.project("waiting", remote, agents_at_once=1)
    first = stack.submit("waiting", "First of all", agent="anthropic")
    wait_until(lambda: lines(ran) == ["ran"], "the first one runs")
    second = stack.submit("waiting", "Then that", agent="anthropic", depends_on=[first])
    third = stack.submit("waiting", "Besides", agent="anthropic")
    stack.get("/tasks", wait_for=stack.last_sequence())
    assert stack.json("task", "show", second)["status"] == "pending"
    why = {task: stack.json("task", "show", task)["why"] for task in (second, third)}
    assert first in why[second]["summary"]
    assert "1 of 1" in why[third]["summary"]
    assert first in stack.cairn("task", "show", second)
    go.touch()
    for task in (first, second, third):
        stack.feed.ended(task)
    result = stack.feed.until("ToolCallCompleted", second)
    assert result.event["content"]["text"] == "Hello, world\n"
    order = [item.entity_id for item in stack.feed.all("RunRequested", "waiting")]
    assert order.index(first) == 0
    diff = stack.cairn("pr", "diff", second)
    assert "+Bye" in diff


def test_task_begins_from_work_that_is_not_published(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """Its dependency ends without a pull request: the branch is nowhere, the work is there all the same."""
    model.add("Write it", [shell("echo written > only-here.txt"), submit()])
    model.add("Read it", [shell("cat only-here.txt"), submit()])
    gate = {"kind": "tests", "command": "cat only-here.txt"}
    stages = [{"name": "work", "role": "developer"}, {"name": "test", "needs": ["work"], "gate": gate}]
    stack.project("private", repository(tmp_path / "repository"), pipeline={"name": "private", "stages": stages})
    first = stack.submit("private", "Write it", agent="anthropic")
    second = stack.submit("private", "Read it", agent="anthropic", depends_on=[first])
    stack.feed.ended(second)
    assert stack.feed.until("ToolCallCompleted", second).event["content"]["text"] == "written\n"
    assert stack.feed.all("RunRequested", second)[0].event["sources"] == [f"{first}-work"]


def test_two_tasks_at_once_in_one_repository(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """Each waits for the other to be there, and neither sees the other's files."""
    for own, other in (("left", "right"), ("right", "left")):
        command = f"touch '{tmp_path / own}'; echo {own} > {own}.txt; {until_exists(tmp_path / other)}; ls"
        model.add(f"Go {own}", [shell(command), submit()])
    remote = repository(tmp_path / "repository")
    stack.project("parallel", remote)
    tasks = {side: stack.submit("parallel", f"Go {side}", agent="openai") for side in ("left", "right")}
    for side, task in tasks.items():
        stack.feed.ended(task)
        result = stack.feed.until("ToolCallCompleted", task)
        assert result.event["content"]["text"].split() == ["README.md", "greeting.txt", f"{side}.txt"]
        stack.cairn("pr", "approve", task)
        stack.cairn("pr", "merge", task)
    assert git(remote, "ls-tree", "--name-only", "main").split() == [
        "README.md",
        "greeting.txt",
        "left.txt",
        "right.txt",
    ]


def test_a_person_approves_a_stage(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """A pipeline of one's own: the rejection goes back to the agent with its reason, the approval goes on."""
    pipeline = tmp_path / "pipeline.json"
    stages = [
        {"name": "development", "role": "developer"},
        {"name": "review", "needs": ["development"], "approval": True},
        {"name": "publish", "needs": ["review"], "gate": {"kind": "pull_request"}},
    ]
    pipeline.write_text(json.dumps({"name": "reviewed", "stages": stages}))
    model.add("Have it reviewed", [shell("sed -i s/Helo/Hallo/ greeting.txt"), submit("In German.")])
    model.add("In English, please", [shell("sed -i s/Hallo/Hello/ greeting.txt"), submit("In English.")])
    remote = repository(tmp_path / "repository")
    stack.json("project", "add", "reviewed", "--repo", str(remote), "--pipeline", str(pipeline))
    task = stack.submit("reviewed", "Have it reviewed", agent="anthropic")
    asked = stack.feed.until("ApprovalRequested", task)
    stack.get("/tasks", wait_for=asked.sequence)
    assert stack.json("task", "show", task)["status"] == "in_review"
    stack.cairn("task", "reject", task, "review", "--reason", "In English, please")
    stack.feed.until("ApprovalRequested", task, count=2)
    assert "does not wait" in stack.cairn("task", "approve", task, "publish", exit_code=1)
    stack.cairn("task", "approve", task, "review")
    stack.feed.ended(task)
    assert "+Hello, world" in stack.cairn("pr", "diff", task)
    back = stack.feed.until("StageRolledBack", task)
    assert (back.event["to"], back.event["findings"]) == ("development", "In English, please")
