"""The main job on real repositories, through each kind of agent, until it is merged on the remote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.git_examples import git
from tests.model_server import Call, Fault, ModelServer, Turn, dropped, overloaded, rate_limited
from tests.system.examples import MEND, MENDED, TEST_COMMAND, bare_remote, lines, repository, shell, submit
from tests.system.stack import SystemStack

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

DIFF = ["-Helo, world", "+Hello, world"]
BROKEN_JSON = '{"path": "greeting.txt", "old": '


def add_and_submit(stack: SystemStack, name: str, url: str, title: str, agent: str) -> str:
    """As a person does it: the project, then the task, waiting for its end; answers the task's id."""
    added = stack.json("project", "add", name, "--repo", url, "--test-command", TEST_COMMAND)
    assert added["outcome"] == "accepted"
    task = stack.json("task", "submit", name, title, "--agent", agent, "--wait")
    assert (task["status"], task["pull_request_state"]) == ("completed", "open")
    return str(task["id"])


def review_and_merge(stack: SystemStack, task: str, remote: Path) -> None:
    """The pull request holds exactly the change; approved and merged it is on the remote's branch."""
    listed = {row["id"]: row for row in stack.json("pr", "list")}
    assert (listed[task]["state"], listed[task]["lines_added"], listed[task]["files_changed"]) == ("open", 1, 1)
    changed = [line for line in stack.cairn("pr", "diff", task).splitlines() if line[:1] in "+-"]
    assert [line for line in changed if not line.startswith(("+++", "---"))] == DIFF
    assert "is not approved" in stack.cairn("pr", "merge", task, exit_code=1)
    stack.cairn("pr", "approve", task)
    assert git(remote, "show", "main:greeting.txt") == "Helo, world"
    stack.cairn("pr", "merge", task)
    assert stack.json("pr", "show", task)["state"] == "merged"
    assert git(remote, "show", "main:greeting.txt") == MENDED
    assert git(remote, "ls-tree", "-r", "--name-only", "main").split() == ["README.md", "greeting.txt"]


def test_a_program_agent_in_a_folder_with_spaces(stack: SystemStack, tmp_path: Path) -> None:
    """Any command does the job in a repository whose path has spaces, and gets its prompt in both ways."""
    remote = repository(tmp_path / "a folder" / "with spaces")
    script = f'grep -q "Mend the greeting" "$CAIRN_PROMPT_FILE" && echo "$0" | grep -q "Mend" && {MEND} && echo mended'
    stack.agent("program", kind="program", command=["bash", "-c", script, "{prompt}"])
    task = add_and_submit(stack, "spaces", str(remote), "Mend the greeting", "program")
    assert stack.cairn("logs", task) == "mended\n"
    review_and_merge(stack, task, remote)
    # The branch that was merged into is checked out there: the working tree follows.
    assert (remote / "greeting.txt").read_text() == f"{MENDED}\n"


def test_anthropic_with_a_provider_that_flinches(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """429 with Retry-After, 529, a dropped connection, an unknown tool, wrong arguments and a repeated id in a bare
    repository: the run waits, tells the model what was wrong, and does the job."""
    remote = bare_remote(tmp_path / "remote.git")
    ran = tmp_path / "ran"
    repeated = Call("shell", {"command": f"echo ran >> '{ran}'"}, id="toolu_same")
    model.add(
        "Greet over Anthropic",
        [
            shell("cat greeting.txt", "I look.", faults=(rate_limited("1"), overloaded(), dropped())),
            Turn(calls=(Call("frobnicate", {}), Call("edit_file", {"path": "greeting.txt"}))),
            Turn(calls=(repeated, repeated)),
            Turn(calls=(Call("edit_file", {"path": "greeting.txt", "old": "Helo", "new": "Hello"}),)),
            submit("The greeting is right."),
        ],
    )
    task = add_and_submit(stack, "anthropic", str(remote), "Greet over Anthropic", "anthropic")

    postponed = stack.feed.all("ModelCallPostponed", task)
    assert [item.event["cause"] for item in postponed] == ["rate-limited", "overloaded", "network"]
    # What the provider asked for is a floor.
    assert (postponed[1].time - postponed[0].time).total_seconds() >= 1.0
    refused = {item.event["cause"]: item.event["detail"] for item in stack.feed.all("ToolCallRefused", task)}
    assert set(refused) == {"unknown-tool", "invalid-arguments", "repeated-call"}
    assert lines(ran) == ["ran"]
    shown = json.dumps(_conversation(model, "Greet over Anthropic"))
    for detail in refused.values():
        assert json.dumps(detail)[1:-1] in shown
    run = stack.get(f"/tasks/{task}/runs")["items"][0]
    assert (run["steps"], run["input_tokens"], run["output_tokens"]) == (5, 500, 50)
    review_and_merge(stack, task, remote)


def test_openai_with_broken_arguments(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """Arguments that are no JSON, 429 and 500 over a file URL: the model is told, the run goes on, the job is done."""
    remote = bare_remote(tmp_path / "remote.git")
    model.add(
        "Greet over OpenAI",
        [
            Turn(
                calls=(Call("edit_file", BROKEN_JSON), Call("read_file", {"path": "greeting.txt"})),
                faults=(rate_limited("0.2"), Fault(500, "upstream went away")),
            ),
            shell(MEND),
            Turn(text="I think that I am done."),
            submit("The greeting is right."),
        ],
    )
    task = add_and_submit(stack, "openai", f"file://{remote}", "Greet over OpenAI", "openai")

    (refused,) = stack.feed.all("ToolCallRefused", task)
    assert refused.event["cause"] == "invalid-arguments"
    assert "not valid JSON" in refused.event["detail"]
    assert len(stack.feed.all("AgentReminded", task)) == 1
    conversation = _conversation(model, "Greet over OpenAI")
    results = {message["tool_call_id"]: message["content"] for message in conversation if message["role"] == "tool"}
    assert "not valid JSON" in results[refused.event["call_id"]]
    assert any("Helo, world" in text for text in results.values())
    review_and_merge(stack, task, remote)


def _conversation(model: ModelServer, title: str) -> list[dict[str, Any]]:
    """The messages of the last request of a conversation."""
    request = [request for request in model.requests if title in json.dumps(request.body)][-1]
    messages: list[dict[str, Any]] = request.body["messages"]
    return messages
