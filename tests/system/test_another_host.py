"""A host is lost: its runs go on elsewhere, from the last bundled checkpoint, and it may do nothing when it is back."""

from __future__ import annotations

import asyncio
import gzip
import io
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from events.environment import (
    BranchPushed,
    CheckpointBundled,
    EnvironmentMoved,
    EnvironmentPrepared,
    ToolCallCompleted,
    ToolCallStarted,
    ToolCallUncertain,
)
from events.pipeline import Pipeline, PullRequestGate, Stage
from events.run import RunResumed, RunSucceeded
from events.task import ApprovalRequested, CheckRequested, ForkRun, TaskCompleted
from tests.integration.git_examples import git
from tests.system.examples import bare_remote, lines, until_exists
from tests.system.stack import wait_until
from tests.system.two_hosts import LEASE_SECONDS, Host, TwoHosts

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

TEST_COMMAND = "test -s one && test -s two && test -s three"


def shell(command: str) -> dict[str, Any]:
    return {"calls": [{"tool": "shell", "arguments": {"command": command}}]}


def turns(ran: Path, go: Path) -> list[dict[str, Any]]:
    """Three files, the second of them by a command that waits."""
    return [
        shell("echo 1 > one"),
        shell(f"echo begun >> '{ran}'; echo half > two; {until_exists(go)}; echo 2 > two; echo ended >> '{ran}'"),
        shell("cat one two; echo 3 > three"),
        {"calls": [{"tool": "submit", "arguments": {"summary": "All three."}}]},
    ]


async def until_left(host: Host, environment: str) -> None:
    await asyncio.to_thread(
        wait_until, lambda: not host.workspace(environment).parent.exists(), f"{environment} is left", 20.0
    )


async def until_bundled(hosts: TwoHosts) -> None:
    """What the first call changed is kept elsewhere too; the second one runs."""
    await hosts.until(ToolCallStarted, 2)
    await hosts.until(CheckpointBundled, 2)


async def test_run_goes_on_when_its_host_is_lost(tmp_path: Path, nats_url: str) -> None:
    """The call that ran there is uncertain, and executed again from the checkpoint before it; gate and pull request
    follow the environment. The next step comes within a lease and a second."""
    ran, go = tmp_path / "ran", tmp_path / "go"
    remote = bare_remote(tmp_path / "remote")
    async with TwoHosts(tmp_path, nats_url, turns(ran, go)) as hosts:
        await hosts.task(remote, TEST_COMMAND)
        await until_bundled(hosts)
        hosts.b.start()
        await asyncio.sleep(LEASE_SECONDS)
        hosts.a.kill()
        killed_at = time.monotonic()
        go.touch()
        await hosts.until(ToolCallCompleted, 2)
        print(f"next step {time.monotonic() - killed_at:.2f} s after the kill, lease {LEASE_SECONDS:g} s")
        assert time.monotonic() - killed_at < LEASE_SECONDS + 3.0  # a second where the machine does nothing else
        await hosts.until(TaskCompleted)

        (moved,) = hosts.all(EnvironmentMoved)
        assert (moved.from_host, moved.host, moved.lost_calls) == ("a", "b", ())
        assert [resumed.host for resumed in hosts.all(RunResumed)] == ["b"]
        (uncertain,) = hosts.all(ToolCallUncertain)
        assert uncertain.resolution == "restore-and-execute-again"
        assert lines(ran) == ["begun", "begun", "ended"]
        assert {check.host for check in hosts.all(CheckRequested)} == {"b"}
        assert len(hosts.all(RunSucceeded)) == 1
        pushed = hosts.all(BranchPushed)[-1]
        assert git(remote, "show", f"{pushed.branch}:two") == "2"
        assert git(remote, "show", f"{pushed.branch}:one") == "1"


async def test_host_that_comes_back_says_nothing_and_leaves(tmp_path: Path, nats_url: str) -> None:
    """It was only cut off: its processes went on, and one ends after the move. Nothing of that gets into the log, its
    copy is removed, and what ran there ends."""
    ran, go = tmp_path / "ran", tmp_path / "go"
    remote = bare_remote(tmp_path / "remote")
    async with TwoHosts(tmp_path, nats_url, turns(ran, go)) as hosts:
        task = await hosts.task(remote, TEST_COMMAND)
        await until_bundled(hosts)
        hosts.b.start()
        await asyncio.sleep(LEASE_SECONDS)
        hosts.a.pause()
        await hosts.until(EnvironmentMoved)
        moved_at = hosts.happened[-1][0].sequence
        go.touch()
        hosts.a.go_on()
        await hosts.until(TaskCompleted)
        await until_left(hosts.a, f"{task}-development")
        ends = [event.call_id for event in hosts.all(ToolCallCompleted)]
        assert len(ends) == len(set(ends))
        by_a = [
            record
            for record, _ in hosts.happened
            if record.sequence > moved_at and record.envelope.actor.startswith("a-")
        ]
        assert by_a == []
        assert len(hosts.all(EnvironmentMoved)) == 1
        assert len(hosts.all(RunSucceeded)) == 1


async def test_gate_is_checked_elsewhere_when_the_host_of_the_work_is_lost(tmp_path: Path, nats_url: str) -> None:
    """The run had ended there; nobody holds a lease, but the scheduler asks again where somebody lives."""
    ran, go = tmp_path / "ran", tmp_path / "go"
    go.touch()
    remote = bare_remote(tmp_path / "remote")
    gate = tmp_path / "gate"
    async with TwoHosts(tmp_path, nats_url, turns(ran, go)) as hosts:
        await hosts.task(remote, f"{until_exists(gate)}; {TEST_COMMAND}")
        await hosts.until(ToolCallStarted, 4)
        hosts.b.start()
        hosts.a.kill()
        gate.touch()
        await hosts.until(TaskCompleted)
        (moved,) = hosts.all(EnvironmentMoved)
        assert (moved.from_host, moved.host) == ("a", "b")
        assert git(remote, "show", f"{hosts.all(BranchPushed)[-1].branch}:three") == "3"


PUBLISHED_TWICE = Pipeline(
    name="published-twice",
    stages=(
        Stage(name="development", role="developer", approval=True),
        Stage(name="publish", needs=("development",), gate=PullRequestGate()),
        Stage(name="release", needs=("publish",), approval=True),
        Stage(name="documentation", role="developer", needs=("release",)),
        Stage(name="again", needs=("documentation",), gate=PullRequestGate()),
    ),
)


@pytest.mark.parametrize("last", ["development", "publish"])
async def test_work_is_published_when_its_host_is_lost(tmp_path: Path, nats_url: str, last: str) -> None:
    """Nothing ran there any more when it was lost, after ``last`` was done: what was made there is published by
    another host, and the next stage begins with it there."""
    ran, go = tmp_path / "ran", tmp_path / "go"
    go.touch()
    remote = bare_remote(tmp_path / "remote")
    async with TwoHosts(tmp_path, nats_url, turns(ran, go)) as hosts:
        task = await hosts.task(remote, TEST_COMMAND, pipeline=PUBLISHED_TWICE)
        await hosts.until(ApprovalRequested)
        hosts.b.start()
        # The other host has seen the repository before, and nothing of what was published since.
        await hosts.pack(hosts.b, f"{task}-development", hosts.all(ToolCallCompleted)[0].checkpoint)
        if last == "development":
            hosts.a.kill()
        await hosts.approve(task, "development")
        await hosts.until(ApprovalRequested, 2)
        if last == "publish":
            hosts.a.kill()
        await hosts.approve(task, "release")
        await hosts.until(TaskCompleted)
        assert lines(ran) == ["begun", "ended", "begun", "ended"]
        pushed = hosts.all(BranchPushed)
        assert len(pushed) == 2
        assert git(remote, "show", f"{pushed[-1].branch}:three") == "3"
        assert [prepared.host for prepared in hosts.all(EnvironmentPrepared)] == ["a", "b"]


async def test_fork_of_a_run_whose_host_is_lost(tmp_path: Path, nats_url: str) -> None:
    """The source had ended, and its host is gone for good: the workspace of its step can be had elsewhere, and the fork
    begins with it there."""
    ran, go = tmp_path / "ran", tmp_path / "go"
    remote = bare_remote(tmp_path / "remote")
    go.touch()
    async with TwoHosts(tmp_path, nats_url, turns(ran, go)) as hosts:
        task = await hosts.task(remote, TEST_COMMAND)
        await hosts.until(TaskCompleted)
        (first,) = [record.sequence for record, event in hosts.happened if event == hosts.all(ToolCallCompleted)[0]]
        hosts.b.start()
        hosts.a.kill()
        checkpoint = hosts.all(ToolCallCompleted)[0].checkpoint
        packed = gzip.decompress(await hosts.pack(hosts.b, f"{task}-development", checkpoint))
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            assert {"one", "greeting.txt", "README.md"} == set(archive.getnames())
        fork = await hosts.fork(task, ForkRun(run_id=f"{task}-development-1", sequence=first))
        await hosts.until(TaskCompleted, 2)
        prepared = hosts.all(EnvironmentPrepared)[-1]
        assert (prepared.task_id, prepared.host) == (fork, "b")
        assert lines(ran) == ["begun", "ended", "begun", "ended"]
        assert git(remote, "show", f"{hosts.all(BranchPushed)[-1].branch}:one") == "1"
