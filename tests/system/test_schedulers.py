"""Two schedulers at work: one is killed, one stands still past its time. No placement is lost, made twice or too many.

The limits are checked decision by decision, in the order of the log.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.consuming import LEASE_SECONDS
from infra.embedded.service_program import read_run_file, unready_reason
from tests.model_server import ModelServer, slow
from tests.system.checks import assert_calls_ended_once
from tests.system.conftest import SCHEDULING, running
from tests.system.examples import MEND, NEVER_SECONDS, TEST_COMMAND, repository, shell, submit, until_exists
from tests.system.stack import SystemStack, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

NAME = "scheduler"
OVERALL = 4
# A failed run waits for longer than two commands, one after the other, that a scheduler had in hand when it froze.
RETRY_SECONDS = 2 * LEASE_SECONDS + 10.0
# Longer than any call of another run takes.
SILENCE_SECONDS = 5.0


@pytest.fixture(scope="module")
def stack(model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemStack]:
    scheduling = {**SCHEDULING, "agents_at_once": OVERALL, "retry_delay_seconds": RETRY_SECONDS}
    with running(tmp_path_factory.mktemp("stack"), model, {"scheduling": scheduling}) as stack:
        yield stack


def until_ready(stack: SystemStack, process: subprocess.Popen[bytes]) -> None:
    """Wait until the process says that it is ready, where services of its name tell of themselves."""

    def ready() -> bool:
        found = read_run_file(stack.home, NAME)
        return found is not None and found.pid == process.pid and not unready_reason(found)

    wait_until(ready, "the second scheduler is ready")


def assert_placed_well(stack: SystemStack, limits: Mapping[str, int]) -> None:
    """Each attempt was asked for once and begun once; after no decision more agents ran than may; nothing is left."""
    stack.feed.until_sequence(stack.last_sequence())
    requested = [item.event["run_id"] for item in stack.feed.all("RunRequested")]
    assert Counter(item.entity_id for item in stack.feed.all("RunStarted")) == dict.fromkeys(requested, 1)
    runs: dict[str, str] = {}
    for decision in stack.feed.decisions:
        for event in decision["events"]:
            if event["type"] == "RunRequested":
                runs[event["run_id"]] = decision["entity_id"].rpartition("-")[0]
            elif event["type"] in ("RunRecorded", "RunFailureRecorded"):
                del runs[event["run_id"]]
        count = Counter(runs.values())
        assert count.total() <= OVERALL, (decision, runs)
        assert all(count[project] <= limit for project, limit in limits.items()), (decision, runs)
    assert runs == {}
    assert stack.items("/dead-letters") == []


def test_each_of_two_is_killed(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """With more tasks than may run, one scheduler is killed and comes back, the other is killed for good, and the first
    once more: all the tasks complete."""
    limits = {"two": 2, "three": 3}
    remote = repository(tmp_path / "repository")
    model.add("Greet well", [shell(MEND), submit()])
    for project, limit in limits.items():
        stack.project(project, remote, test_command=TEST_COMMAND, agents_at_once=limit)
    with stack.another(NAME) as second:
        until_ready(stack, second)
        tasks = [stack.submit(project, "Greet well", agent="anthropic") for project in limits for _ in range(5)]
        stack.feed.until("RunRequested", count=3)
        killed = stack.kill(NAME)
        stack.until_back(NAME, killed)
        stack.feed.until("RunRequested", count=5)
        second.kill()
        stack.feed.until("RunRequested", count=7)
        stack.kill(NAME)
        for task in tasks:
            stack.feed.ended(task)
            assert_calls_ended_once(stack, task)
    assert len(stack.feed.all("PullRequestOpened")) == len(tasks)
    assert_placed_well(stack, limits)


def test_one_of_two_stands_still_past_its_time(stack: SystemStack, model: ModelServer, tmp_path: Path) -> None:
    """The last that it knows is that there is room for one more, and when. By that time there is none, and it wakes
    then: it starts nothing that may not be, and is as good as any when it is left alone."""
    limit = 2
    first, second = tmp_path / "first", tmp_path / "second"
    stack.agent("hasty", **stack.agents["anthropic"], limits={"idle_seconds": SILENCE_SECONDS})
    model.add("Silent once", [shell(MEND, faults=(slow(NEVER_SECONDS),)), submit()])
    model.add("Before all others", [shell(f"{until_exists(first)}; {MEND}"), submit()])
    model.add("One of two after it", [shell(f"{until_exists(second)}; {MEND}"), submit()])
    model.add("At last", [shell(MEND), submit()])
    stack.project("frozen", repository(tmp_path / "repository"), test_command=TEST_COMMAND, agents_at_once=limit)
    with stack.another(NAME) as other:
        until_ready(stack, other)
        before = stack.submit("frozen", "Before all others", agent="anthropic")
        failing = stack.submit("frozen", "Silent once", agent="hasty")
        after = [
            stack.submit("frozen", "One of two after it", agent="anthropic", depends_on=[before]) for _ in range(limit)
        ]
        failed = stack.feed.until("RunFailureRecorded", failing)
        frozen = stack.pid(NAME)
        os.kill(frozen, signal.SIGSTOP)
        try:
            first.touch()
            for task in after:
                stack.feed.until("RunStarted", task)
            due = datetime.fromisoformat(failed.event["retry_at"])
            wait_until(lambda: datetime.now(UTC) > due, "the failed run may be tried again", RETRY_SECONDS)
            assert len(stack.feed.all("RunRequested", failing)) == 1
        finally:
            os.kill(frozen, signal.SIGCONT)
        other.kill()
        other.wait()
        last = stack.submit("frozen", "At last", agent="anthropic")
        assert [item.event["attempt"] for item in stack.feed.all("RunRequested", failing)] == [1]
        second.touch()
        for task in (before, failing, *after, last):
            stack.feed.ended(task)
    assert_placed_well(stack, {"frozen": limit})
