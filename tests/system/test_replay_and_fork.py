"""A run shown, stepped through and checked out at any step; forked from there; carried to another installation."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from events.conversation import FORKED
from tests.model_server import ModelServer
from tests.system.checks import requests_of
from tests.system.conftest import running
from tests.system.examples import lines, repository, shell, submit
from tests.system.stack import CAIRN, SystemStack, clean_environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


class Source:
    """A finished run that wrote ``one.txt``, then ``two.txt``. ``ran`` counts its commands outside the workspace."""

    def __init__(self, stack: SystemStack, model: ModelServer, folder: Path, title: str, agent: str) -> None:
        self.ran = folder / "ran"
        note = f">> '{self.ran}'"
        turns = [
            shell(f"echo one {note}; echo 1 > one.txt; ls", "I write the first."),
            shell(f"echo two {note}; echo 2 > two.txt; ls", "I write the second."),
            submit("Both are written."),
            submit("And more."),
        ]
        model.add(title, turns)
        self.title = title
        self.repository = repository(folder / "repository")
        stack.project(folder.name, self.repository)
        self.task = stack.submit(folder.name, title, agent=agent)
        stack.feed.ended(self.task)
        self.run = f"{self.task}-development-1"
        first, second = stack.feed.all("ToolCallCompleted", f"{self.task}-development", tool="shell")
        self.first, self.second = first.sequence, second.sequence
        self.requested = stack.feed.all("ToolCallRequested", self.run)[1].sequence
        self.began = stack.feed.all("RunStarted", self.run)[0].sequence


@pytest.fixture(scope="module")
def source(stack: SystemStack, model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return Source(stack, model, tmp_path_factory.mktemp("source"), "Write two files", "anthropic")


def keys(stack: SystemStack, *arguments: str, input: str) -> str:
    """``cairn`` with keys from a pipe."""
    done = subprocess.run(
        [*CAIRN, *arguments], cwd=stack.directory, env=clean_environment(), input=input, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def heard(model: ModelServer, title: str) -> list[dict[str, Any]]:
    """The messages of the last request of a conversation."""
    return list(requests_of(model, title)[-1]["messages"])


# ---- replay


def test_steps_with_the_diff_of_each(stack: SystemStack, source: Source) -> None:
    """Forward, back and to a sequence; a step that changed nothing says so."""
    shown = keys(stack, "replay", source.run, "--step", input=f"n\np\ng {source.first}\nd\nq\n")
    assert f"sequence {source.began} ·" in shown
    assert "+1" in shown.splitlines()
    assert "two.txt" not in shown.partition("+++")[2]


def test_workspace_as_it_was(stack: SystemStack, source: Source, tmp_path: Path) -> None:
    """After the first command there is one file, at the end there are both; the environment is long gone."""
    for at, expected in ((source.first, {"one.txt"}), (source.second, {"one.txt", "two.txt"})):
        target = tmp_path / str(at)
        stack.cairn("replay", source.run, "--at", str(at), "--checkout", str(target))
        assert {path.name for path in target.iterdir()} == {"README.md", "greeting.txt", *expected}
    assert "is not empty" in stack.cairn("replay", source.run, "--checkout", str(tmp_path), exit_code=2)


def test_diff_of_a_step_and_of_the_run(stack: SystemStack, source: Source) -> None:
    """With --at one step, without it everything."""
    assert "one.txt" not in stack.cairn("replay", source.run, "--at", str(source.second), "--diff")
    whole = stack.cairn("replay", source.run, "--diff")
    assert "one.txt" in whole
    assert "two.txt" in whole


def test_board_as_it_was(stack: SystemStack, source: Source) -> None:
    """While the run's first command was done the task was running, now it is completed."""
    then = {task["id"]: task["status"] for task in stack.json("replay", "board", "--at", str(source.first))["tasks"]}
    now = {task["id"]: task["status"] for task in stack.json("replay", "board")["tasks"]}
    assert (then[source.task], now[source.task]) == ("running", "completed")


def test_moments_that_are_none(stack: SystemStack, source: Source, tmp_path: Path) -> None:
    """Before the beginning, of nothing, and at no time: each its own message."""
    before = str(source.began - 1)
    assert "did not exist yet" in stack.cairn("replay", source.run, "--at", before, exit_code=4)
    assert "There is no run" in stack.cairn("replay", "nobody-development-1", exit_code=4)
    assert "can be a sequence" in stack.cairn("replay", source.run, "--at", "yesterday", exit_code=2)
    early = stack.cairn("replay", source.run, "--at", str(source.began), "--checkout", str(tmp_path / "x"), exit_code=4)
    assert "had no workspace yet" in early


# ---- fork


def test_fork_goes_on_from_a_step(stack: SystemStack, model: ModelServer, source: Source) -> None:
    """Its model hears what the source's heard up to there and then the prompt; its workspace is that of the step; no
    command of the source runs again, and nothing is counted against it."""
    original = heard(model, source.title)
    forked = json.loads(
        stack.cairn("fork", source.run, "--at", str(source.first), "--prompt", "Use a comma.", "--json")
    )["id"]
    stack.feed.ended(forked)
    told = heard(model, source.title)
    assert told[:2] == original[:2]
    assert "one.txt" in str(told[2])
    assert "Use a comma." in str(told[2:4])
    (call,) = stack.feed.all("ToolCallCompleted", f"{forked}-development", tool="shell")
    assert call.event["content"]["text"].split() == ["README.md", "greeting.txt", "one.txt", "two.txt"]
    assert lines(source.ran).count("one") == 1
    state = stack.get(f"/replay/run/{forked}-development-1")["state"]
    assert state["steps"] == 2
    stack.get("/tasks", wait_for=stack.last_sequence())
    shown = stack.json("task", "show", forked)
    assert (shown["forked_from"]["run_id"], shown["forked_from"]["sequence"]) == (source.run, source.first)
    assert (shown["status"], shown["pull_request_state"]) == ("completed", "open")


@pytest.mark.parametrize("agent", ["anthropic", "openai"])
def test_fork_at_an_open_call_and_fork_of_that(
    stack: SystemStack, model: ModelServer, tmp_path: Path, agent: str
) -> None:
    """The call that was open has a result that says so; a fork of the fork hears all generations. Both providers'
    rules for conversations hold."""
    source = Source(stack, model, tmp_path, f"Two files by {agent}", agent)
    first = json.loads(stack.cairn("fork", source.run, "--at", str(source.requested), "--json"))["id"]
    stack.feed.ended(first)
    told = str(heard(model, source.title))
    assert FORKED in told
    assert lines(source.ran) == ["one", "two"]
    answered = stack.feed.all("ModelResponded", f"{first}-development-1")[0].sequence
    second = json.loads(
        stack.cairn("fork", f"{first}-development-1", "--at", str(answered), "--prompt", "Once more.", "--json")
    )["id"]
    stack.feed.ended(second)
    told = str(heard(model, source.title))
    assert told.count("no result: this conversation") == 2
    assert "Once more." in told
    assert [request.problem for request in model.requests if request.problem] == []


def test_fork_for_a_program(stack: SystemStack, source: Source) -> None:
    """A program has no conversation to go on from: it gets the workspace of the step, the task, and what is wanted."""
    stack.agent("program", kind="program", command=["bash", "-c", 'cat "$CAIRN_PROMPT_FILE"; ls; echo 3 > three.txt'])
    answer = json.loads(
        stack.cairn(
            *("fork", source.run, "--at", str(source.first)),
            *("--prompt", "In short.", "--agent", "program", "--json"),
        )
    )
    assert "it starts anew" in answer["detail"]
    forked = answer["id"]
    stack.feed.ended(forked)
    printed = stack.cairn("logs", forked)
    assert printed.startswith(f"# Task: {source.title}")
    assert "In short.\nREADME.md\ngreeting.txt\none.txt\n" in printed


def test_fork_of_a_programs_run(stack: SystemStack, tmp_path: Path) -> None:
    """It starts anew, and says so: nothing of its own session comes along, but what is in the working copy."""
    remembers = 'cat ~/session kept.txt 2>&1; echo before | tee ~/session > kept.txt; [ -n "$(cat kept.txt)" ]'
    stack.agent("remembers", kind="program", command=["bash", "-c", remembers], session_file="~/session")
    stack.project("remembered", repository(tmp_path / "remembered"))
    task = stack.submit("remembered", "Remember it", agent="remembers")
    stack.feed.ended(task)
    run = f"{task}-development-1"
    completed = stack.feed.all("ToolCallCompleted", f"{task}-development", tool="program")[0]
    answer = json.loads(stack.cairn("fork", run, "--at", str(completed.sequence), "--json"))
    assert "it starts anew" in answer["detail"]
    assert "not in the workspace" not in answer["detail"]
    stack.feed.ended(answer["id"])
    printed = stack.cairn("logs", answer["id"])
    assert "session: No such file" in printed
    assert "before\n" in printed
    within = json.loads(stack.cairn("fork", run, "--at", str(completed.sequence - 1), "--json"))
    assert "What program had changed by then is not in the workspace" in within["detail"]
    stack.feed.ended(within["id"])
    assert "kept.txt: No such file" in stack.cairn("logs", within["id"])


def test_forks_that_cannot_be(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """An unknown run, a step before the beginning or before the workspace, an unknown agent, a checkpoint that is gone:
    each is refused with its own message, and no task is made."""
    source = Source(stack, model, tmp_path, "Two files and no checkpoint", "anthropic")
    before = len(stack.items("/tasks"))
    assert "There is no run" in stack.cairn("fork", "nobody-development-1", "--at", "5", exit_code=4)
    assert "did not exist yet" in stack.cairn("fork", source.run, "--at", str(source.began - 1), exit_code=4)
    assert "did not stand yet" in stack.cairn("fork", source.run, "--at", str(source.began), exit_code=2)
    unknown = stack.cairn("fork", source.run, "--at", str(source.first), "--agent", "nobody", exit_code=2)
    assert "there is no agent 'nobody'" in unknown
    url = stack.feed.all("EnvironmentPrepared", source.task)[0].event["repository_url"]
    mirror = _mirror(stack, url)
    mirror.rename(mirror.with_suffix(".gone"))
    gone = stack.cairn("fork", source.run, "--at", str(source.first), exit_code=1)
    assert "is not on this host" in gone
    assert "is not on this host" in stack.cairn("replay", source.run, "--checkout", str(tmp_path / "x"), exit_code=1)
    assert len(stack.items("/tasks")) == before
    missing = stack.cairn("export", source.run, "--output", str(tmp_path / "poor.zip"))
    assert "Wrote" in missing


def _mirror(stack: SystemStack, url: str) -> Path:
    """The mirror of a repository: the one whose checkpoints were made from it."""
    from hashlib import sha256

    return stack.home / "repositories" / f"{sha256(url.encode()).hexdigest()[:16]}.git"


# ---- bundles


def test_run_carried_to_another_installation(
    stack: SystemStack, model: ModelServer, source: Source, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Everything can be looked at there, step by step, without the repository; and nothing of it is ever started."""
    file = tmp_path / "run.cairn.zip"
    stack.cairn("export", source.run, "--output", str(file))
    assert "exists already" in stack.cairn("export", source.run, "--output", str(file), exit_code=2)
    with running(tmp_path_factory.mktemp("elsewhere"), model, {}) as other:
        assert "imported/theirs" in other.cairn("import", str(file), "--name", "theirs")
        shown = keys(other, "replay", "imported/theirs", "--step", input=f"g {source.second}\nd\nq\n")
        assert "two.txt" in shown
        target = tmp_path / "out"
        other.cairn("replay", "imported/theirs", "--at", str(source.first), "--checkout", str(target))
        assert {path.name for path in target.iterdir()} == {"README.md", "greeting.txt", "one.txt"}
        assert "I write the second." in other.cairn("events", "--run", "imported/theirs")
        assert "development" in other.cairn("replay", f"imported/theirs/{source.task}")
        assert other.items("/tasks") == []
        # A host tells of itself after a while, whatever is asked.
        assert [decision for decision in other.items("/events") if decision["entity"] != "chaos"] == []
        assert [decision for decision in other.feed.decisions if decision["entity"] != "chaos"] == []
        junk = tmp_path / "junk.zip"
        junk.write_bytes(file.read_bytes()[:-500])
        assert "no bundle of a run" in other.cairn("import", str(junk), exit_code=2)
        shutil.copy(source.repository / "README.md", junk)
        assert "no bundle of a run" in other.cairn("import", str(junk), exit_code=2)
