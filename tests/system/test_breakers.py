"""A provider that drowns, and a program that is not there: work waits, is told why, and goes on by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model_server import ModelServer, rate_limited
from tests.system.examples import MEND, TEST_COMMAND, repository, shell, submit
from tests.system.stack import SystemStack, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def test_a_storm_of_429_opens_the_breaker_and_one_run_probes(
    stack: SystemStack, model: ModelServer, tmp_path: Path
) -> None:
    """Three in a row, of any runs; then nobody calls, over a crash of the scheduler too, and one run at a time tries
    until it is answered. Every task is completed at its first attempt."""
    stack.project("storm", repository(tmp_path / "storm"), test_command=TEST_COMMAND, agents_at_once=3)
    titles = [f"Weather the storm {name}" for name in ("north", "east", "south")]
    for title in titles:
        model.add(title, [shell(MEND, faults=(rate_limited("1.0"), rate_limited("1.0"))), submit()])
    tasks = [stack.submit("storm", title, agent="anthropic") for title in titles]

    opened = stack.feed.until("BreakerOpened")
    stack.until_back("scheduler", stack.kill("scheduler"))
    queue = stack.get("/queue", wait_for=opened.sequence)
    (shown,) = [row for row in queue["breakers"] if row["id"] == opened.entity_id]
    assert "anthropic" in shown["credential"]
    late = stack.submit("storm", titles[0], agent="anthropic")
    for task in [*tasks, late]:
        stack.feed.ended(task)

    turns = [item.kind for item in stack.feed.happened if item.entity == "breaker"]
    probing = False
    for kind in turns:
        if kind == "ProbeStarted":
            assert not probing, turns
        probing = {"ProbeStarted": True, "ProbeFailed": False, "BreakerClosed": False}.get(kind, probing)
    assert turns.count("BreakerClosed") >= 1
    calls = [item.sequence for item in stack.feed.happened if item.kind in ("ModelResponded", "ModelCallPostponed")]
    first = stack.feed.all("ProbeStarted")[0]
    # Each of the three may have had a call under way when it opened; nothing is begun.
    assert len([number for number in calls if opened.sequence < number < first.sequence]) <= 3
    assert [item.event["attempt"] for task in [*tasks, late] for item in stack.feed.all("RunRequested", task)] == [
        1
    ] * 4
    deliveries = stack.get("/deliveries", wait_for=stack.last_sequence())
    told = [row["title"] for row in deliveries["items"] if row["event_type"] == "BreakerOpened"]
    assert len(told) == turns.count("BreakerOpened")
    assert "failed 3 times in a row" in told[0]
    (shown,) = [row for row in stack.get("/queue")["breakers"] if row["id"] == opened.entity_id]
    assert (shown["status"], shown["failures"]) == ("closed", 0)


def test_a_program_that_is_not_there_keeps_its_work_queued(stack: SystemStack, tmp_path: Path) -> None:
    """With the reason, in the queue and for the task; it starts by itself when the program is there. It is asked for
    nothing but its version before."""
    program = tmp_path / "agent"
    stack.agent("absent", kind="program", command=[program, "work"])
    wait_until(lambda: str(program) in str(stack.get("/queue")["preflight"]), "the worker tells of the program")
    stack.project("absent", repository(tmp_path / "absent"), test_command=TEST_COMMAND)
    task = stack.submit("absent", "Mend the greeting", agent="absent")
    submitted = stack.feed.until("TaskSubmitted", task)
    why = stack.get(f"/tasks/{task}/why", wait_for=submitted.sequence)
    assert [item["kind"] for item in why["obstacles"]] == ["preflight"]
    assert f"'{program}' is not there" in why["summary"]
    assert stack.feed.all("RunRequested", task) == []

    fresh = program.with_name("fresh")
    fresh.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo agent 1 && exit\necho "$1" >> {tmp_path}/asked\n{MEND}\n'
    )
    fresh.chmod(0o755)
    fresh.replace(program)
    stack.feed.ended(task)
    assert (tmp_path / "asked").read_text() == "work\n"


def test_a_program_that_its_provider_ends_waits_and_is_tried_again(stack: SystemStack, tmp_path: Path) -> None:
    """Its typed error tells; the attempts of the task are not used up."""
    count = tmp_path / "count"
    error = '{"type":"result","is_error":true,"api_error_status":529,"result":"Overloaded"}'
    script = f"echo x >> {count}; if [ $(wc -l < {count}) -le 2 ]; then echo '{error}'; exit 1; fi; {MEND}"
    stack.agent("flinching", kind="program", command=["bash", "-c", script])
    stack.project("flinching", repository(tmp_path / "flinching"), test_command=TEST_COMMAND, max_attempts=1)
    task = stack.submit("flinching", "Mend the greeting", agent="flinching")
    stack.feed.ended(task)
    assert [item.event["cause"] for item in stack.feed.all("RunStarved", task)] == ["overloaded", "overloaded"]
    assert all(item.event["transient"] for item in stack.feed.all("RunFailureRecorded", task))
