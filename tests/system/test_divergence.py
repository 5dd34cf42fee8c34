"""What a run finds when it is taken up again and the world is not as the log tells it: shown, chosen, carried out."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.git_examples import git
from tests.model_server import ModelServer, slow
from tests.system.checks import requests_of
from tests.system.examples import MEND, NEVER_SECONDS, TEST_COMMAND, repository, shell, submit
from tests.system.stack import SystemStack, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

# So that nobody has to wait for long until a lease lapses; only a runner that is away lets it.
WORKER = {"lease_seconds": 6.0}


class Interrupted:
    """A task whose agent has mended the greeting, and whose runner died while the model thought about what follows."""

    def __init__(self, stack: SystemStack, model: ModelServer, folder: Path, title: str, **project: Any) -> None:
        self.stack = stack
        model.add(title, [shell(MEND), submit(faults=(slow(NEVER_SECONDS),))])
        name = title.lower().replace(" ", "-")
        stack.project(name, repository(folder / "repository"), test_command=TEST_COMMAND, **project)
        self.task = stack.submit(name, title, agent="anthropic")
        self.run = f"{self.task}-development-1"
        self.directory = stack.home / "environments" / f"{self.task}-development"
        self.workspace = self.directory / "workspace"
        stack.feed.until("ToolCallCompleted", self.task)
        wait_until(lambda: len(requests_of(model, title)) == 2, "the model is asked for the second step")

    def diverged(self, kind: str) -> dict[str, Any]:
        """What the task shows once its run has found it."""
        reported = self.stack.feed.until("DivergenceReported", self.task)
        shown: dict[str, Any] = self.stack.get(f"/tasks/{self.task}", wait_for=reported.sequence)
        assert shown["status"] == "diverged"
        assert [run["status"] for run in shown["run_list"]] == ["diverged"]
        (item,) = shown["divergences"]
        assert item["kind"] == kind
        return dict(item)

    def resolve(self, choice: str) -> None:
        self.stack.cairn("task", "resolve", self.task, choice)

    def published(self) -> str:
        """The files of the branch that was pushed."""
        pushed = self.stack.feed.until("BranchPushed", self.task).event
        listed = subprocess.run(
            ["git", "ls-tree", "-r", "--name-only", pushed["commit"]],
            cwd=pushed["remote"],
            capture_output=True,
            text=True,
            check=True,
        )
        return listed.stdout


@pytest.mark.parametrize(("choice", "kept"), [("restore", False), ("accept", True)])
def test_workspace_changed_by_hand_while_nobody_looked(
    stack: SystemStack, model: ModelServer, tmp_path: Path, choice: str, kept: bool
) -> None:
    """The run waits and shows the diff; restored, the change is gone, accepted, it is part of the work."""
    run = Interrupted(stack, model, tmp_path, f"By hand {choice}")
    with stack.away("agent-runner"):
        (run.workspace / "by-hand.txt").write_text("nobody asked for this\n")
    item = run.diverged("workspace")
    assert "+nobody asked for this" in item["diff"]["text"]
    shown = stack.cairn("task", "show", run.task)
    assert "by-hand.txt" in shown
    assert f"cairn task resolve {run.task}" in shown
    run.resolve(choice)
    stack.feed.ended(run.task)
    reconciled = stack.feed.until("RunReconciled", run.task)
    assert (reconciled.event["kind"], reconciled.event["choice"]) == ("workspace", choice)
    assert ("by-hand.txt" in run.published()) is kept
    assert len(stack.feed.all("ModelResponded", run.task)) == 2


def test_abandoned_run_fails_its_task(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """It is not tried again."""
    run = Interrupted(stack, model, tmp_path, "Given up")
    with stack.away("agent-runner"):
        (run.workspace / "greeting.txt").write_text("Bye\n")
    run.diverged("workspace")
    run.resolve("abandon")
    stack.feed.ended(run.task, "TaskFailed")
    assert stack.get(f"/runs/{run.run}", wait_for=stack.last_sequence())["status"] == "abandoned"
    assert len(stack.feed.all("RunRequested", run.task)) == 1


def test_forked_run_goes_on_as_another_task(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """From the last durable step, with the workspace as the log tells it."""
    run = Interrupted(stack, model, tmp_path, "Forked away")
    with stack.away("agent-runner"):
        (run.workspace / "by-hand.txt").write_text("nobody asked for this\n")
    run.diverged("workspace")
    run.resolve("fork")
    stack.feed.ended(run.task, "TaskFailed")
    fork = f"{run.task.rpartition('-')[0]}-2"
    stack.feed.ended(fork)
    assert stack.feed.all("ModelResponded", f"{fork}-development-1")[0].event["step"] == 1
    assert len(stack.feed.all("ToolCallStarted", f"{fork}-development")) == 1  # the gate's


def test_checkpoint_that_was_deleted(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """It is missed, and is there again once the workspace was restored from what is left."""
    run = Interrupted(stack, model, tmp_path, "Deleted checkpoint")
    (ref,) = stack.home.glob(f"repositories/*/refs/cairn/{run.task}-development/head")
    with stack.away("agent-runner"):
        ref.unlink()
    item = run.diverged("checkpoint")
    assert item["found"] == "no checkpoint"
    run.resolve("restore")
    stack.feed.ended(run.task)
    assert item["expected"] in ref.read_text()


def test_instructions_changed_between_kill_and_restart(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """The present ones are used once they are accepted, and not before."""
    title = "Changed instructions"
    run = Interrupted(stack, model, tmp_path, title)
    agent = dict(stack.agents["anthropic"])
    with stack.away("agent-runner"):
        stack.agent("anthropic", **agent, instructions="Speak like a pirate.")
    try:
        item = run.diverged("configuration")
        assert "+Speak like a pirate." in item["diff"]["text"]
        assert len(requests_of(model, title)) == 2
        run.resolve("accept")
        stack.feed.ended(run.task)
        assert "pirate" in str(requests_of(model, title)[-1]["system"])
    finally:
        stack.agent("anthropic", **agent)


def test_policy_of_the_project_answers_at_once(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """Nobody is asked, and the log says what was chosen."""
    run = Interrupted(stack, model, tmp_path, "By policy", on_divergence="restore")
    with stack.away("agent-runner"):
        (run.workspace / "by-hand.txt").write_text("nobody asked for this\n")
    stack.feed.ended(run.task)
    assert stack.feed.until("RunReconciled", run.task).event["by"] == "policy"
    assert stack.feed.all("DivergenceReported", run.task) == []
    assert "by-hand.txt" not in run.published()


def test_workspace_that_was_deleted_comes_back(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """As its last checkpoint shows it, without anybody being asked."""
    run = Interrupted(stack, model, tmp_path, "Deleted workspace")
    with stack.away("agent-runner"):
        subprocess.run(["rm", "-rf", str(run.directory)], check=True)
    stack.feed.ended(run.task)
    assert len(stack.feed.all("EnvironmentLost", run.task)) == 1
    assert stack.feed.all("RunDiverged", run.task) == []
    assert "greeting.txt" in run.published()


def test_run_that_nobody_holds_is_no_ghost(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """Its runner is killed and kept away: it is shown as interrupted, since when and after what, and found as such."""
    run = Interrupted(stack, model, tmp_path, "No ghost")
    path = f"/runs/{run.run}"
    assert stack.get(path, wait_for=stack.last_sequence())["status"] == "running"
    assert stack.get(path)["lease"]["host"]
    with stack.away("agent-runner"):
        wait_until(lambda: "has not been heard of" in stack.get(f"/tasks/{run.task}/why")["summary"], "it is silent")
        wait_until(lambda: stack.get(path)["status"] == "interrupted", "the lease lapses")
        shown = stack.get(path)
        assert shown["lease"] is None
        assert shown["interrupted"]["after"] == "step 1"
        assert stack.get(f"/tasks/{run.task}")["status"] == "interrupted"
        assert run.task in [row["id"] for row in stack.items("/tasks", status="interrupted")]
        assert run.task not in [row["id"] for row in stack.items("/tasks", status="running")]
        assert "after step 1" in stack.cairn("task", "show", run.task)
        assert stack.get("/queue")["interrupted"] == [run.run]
        why = stack.get(f"/tasks/{run.task}/why")
        assert (why["status"], [obstacle["kind"] for obstacle in why["obstacles"]]) == ("interrupted", ["no-lease"])
        assert f"No worker holds the lease of {run.run}" in stack.cairn("task", "show", run.task)
    stack.feed.ended(run.task)
    assert stack.get(path, wait_for=stack.last_sequence())["status"] == "succeeded"


def test_read_models_are_compared_with_the_log_and_made_anew(stack: SystemStack) -> None:
    """The doctor says how far they are; what is made anew is the same."""
    before = stack.read_models()
    told = stack.cairn("projector", "rebuild")
    assert "made anew" in told
    assert stack.read_models() == before
    checks = {check["name"]: check for check in stack.json("doctor")}
    assert checks["read models"]["verdict"] == "ok"
    assert "of the log" in checks["read models"]["detail"]


def test_directory_that_nobody_knows_is_removed(stack: SystemStack) -> None:
    """When the environment-manager starts; the log says so."""
    orphan = stack.home / "environments" / "nobody-1-development"
    with stack.away("environment-manager"):
        (orphan / "workspace").mkdir(parents=True)
    removed = stack.feed.until("OrphanRemoved", "nobody-1-development")
    assert removed.event["kind"] == "workspace"
    wait_until(lambda: not orphan.exists(), "the orphan is gone")


def test_checkpoints_that_nobody_can_ask_for_are_removed(stack: SystemStack, tmp_path: Path) -> None:
    """When the environment-manager starts; the log says so. Those of a task stay, long after its workspace."""
    stack.agent("quick", kind="program", command=["sh", "-c", "date > now.txt"])
    remote = repository(tmp_path / "repository")
    stack.project("kept", remote)
    task = stack.submit("kept", "Be quick", agent="quick")
    stack.feed.ended(task)
    stack.feed.until("EnvironmentRemoved", f"{task}-development")
    mirrors = (stack.home / "repositories").glob("*.git")
    own, orphan = (f"refs/cairn/{id}/head" for id in (f"{task}-development", "nobody-2-development"))
    (mirror,) = [mirror for mirror in mirrors if own in git(mirror, "for-each-ref")]
    with stack.away("environment-manager"):
        git(mirror, "update-ref", orphan, own)
    removed = stack.feed.until("OrphanRemoved", "nobody-2-development")
    assert removed.event["kind"] == "checkpoints"
    refs = git(mirror, "for-each-ref")
    assert own in refs
    assert orphan not in refs
