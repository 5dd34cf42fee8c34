"""``cairn up --reload``: services take up changed code while runs go on, and Cairn works on the code that it runs from.

The stack runs from a copy of the code, which is the repository of the project as well: what an agent changes and a
person merges is what is reloaded.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.embedded.reload import CODE, PACKAGES
from tests.integration.git_examples import git
from tests.system.checks import assert_calls_ended_once
from tests.system.examples import lines, until_exists
from tests.system.stack import SystemStack, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

# The notifier says this on its own; it is none of the texts that a test or another service depends on.
MODULE = "services/notifier/policy.py"


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code, under git."""
    folder = tmp_path_factory.mktemp("code")
    for package in PACKAGES:
        shutil.copytree(CODE / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "as it is")
    return folder


@pytest.fixture(scope="module")
def stack(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemStack]:
    """Cairn, run from the copy."""
    stack = SystemStack(tmp_path_factory.mktemp("stack"), {"worker": {"grace_seconds": 2.0}})
    path = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH", "")]))
    with stack.up("--reload", PYTHONPATH=path):
        stack.project("cairn", code, test_command="python3 -m compileall -q services/notifier")
        yield stack


def said(stack: SystemStack) -> str:
    return (stack.directory / "up.log").read_text()


def change(file: Path, text: str) -> None:
    with file.open("a") as out:
        out.write(text)


def until_said(stack: SystemStack, *expected: str) -> None:
    wait_until(lambda: all(text in said(stack) for text in expected), f"{expected} in {said(stack)}", 30.0)


def test_a_run_goes_on_while_its_services_are_reloaded(stack: SystemStack, code: Path, tmp_path: Path) -> None:
    """Its runner and its environment-manager are restarted under it; its process does not notice, and ends once."""
    go, ran = tmp_path / "go", tmp_path / "ran"
    command = f"echo begun >> '{ran}'; {until_exists(go)}; echo ended >> '{ran}'; echo x > new.txt"
    stack.agent("waiter", kind="program", command=["bash", "-c", command])
    task = stack.submit("cairn", "Wait for the reload", agent="waiter")
    wait_until(lambda: lines(ran) == ["begun"], "the program runs")
    pids = {name: stack.pid(name) for name in ("agent-runner", "environment-manager", "scheduler")}
    change(code / "services/agent_runner/driver.py", "\n# A change.\n")
    change(code / "services/environment_manager/executor.py", "\n# A change.\n")
    until_said(stack, "agent-runner is back", "environment-manager is back")
    resumed = stack.feed.until("RunResumed", task)
    assert resumed.event["epoch"] == 2
    assert stack.pid("agent-runner") != pids["agent-runner"]
    assert stack.pid("environment-manager") != pids["environment-manager"]
    assert stack.pid("scheduler") == pids["scheduler"]
    assert "died" not in said(stack)
    go.touch()
    stack.feed.ended(task)
    assert lines(ran) == ["begun", "ended"]
    assert stack.feed.all("ToolCallUncertain", task) == []
    assert_calls_ended_once(stack, task)


def test_code_that_cannot_be_loaded_changes_nothing(stack: SystemStack, code: Path) -> None:
    """The old process goes on, what is wrong is said; when it is mended, the new code is taken up."""
    file = code / "services/scheduler/policy.py"
    before, pid = file.read_text(), stack.pid("scheduler")
    change(file, "\ndef broken(:\n")
    until_said(stack, "scheduler goes on as it was: SyntaxError")
    assert stack.pid("scheduler") == pid
    stack.cairn("project", "list")
    file.write_text(before + "\n# Mended.\n")
    until_said(stack, "scheduler is back")
    assert stack.pid("scheduler") != pid


def test_cairn_changes_the_code_that_it_runs_from(stack: SystemStack, code: Path) -> None:
    """An agent changes a service in the repository that Cairn runs from; when a person merges that, it is reloaded."""
    git(code, "commit", "--quiet", "--all", "--allow-empty", "--message", "what was changed before")
    script = f"echo '# Written by an agent.' >> {MODULE}"
    stack.agent("editor", kind="program", command=["bash", "-c", script])
    pid = stack.pid("notifier")
    task = stack.submit("cairn", "Leave a comment", agent="editor")
    stack.feed.ended(task)
    assert "Written by an agent" not in (code / MODULE).read_text()
    stack.cairn("pr", "approve", task)
    stack.cairn("pr", "merge", task)
    assert (code / MODULE).read_text().endswith("# Written by an agent.\n")
    until_said(stack, f"{MODULE} changed", "notifier is back")
    assert stack.pid("notifier") != pid
    assert "died" not in said(stack)
