"""``cairn environment`` and ``cairn compose`` against a gateway that answers what it is told to."""

from __future__ import annotations

import json
from typing import Any

from tests.command_line.conftest import Run
from tests.command_line.stub_gateway import Answer, StubGateway, problem

ID = "shop-env-1"
CALLS = f"POST /environments/{ID}/calls"


def ended(**fields: Any) -> Answer:
    return Answer({"id": f"{ID}-by-1", "environment_id": ID, "state": "completed", "detail": "", **fields})


def test_environment_of_ones_own(gateway: StubGateway, run: Run) -> None:
    """Made for a project, with what to do next; shown with its system; removed."""
    gateway.on("POST /environments", Answer({"id": ID, "outcome": "accepted", "sequence": 7}, 201))
    port = {"address": "127.0.0.1", "port": 20080, "target": 80}
    web = {"service": "web", "container": "p-web-1", "status": "running", "health": "healthy", "ports": [port]}
    row = {
        **dict.fromkeys(("task_id", "detail", "checkpoint", "isolation"), ""),
        "id": ID,
        "host": "here",
        "workspace": "/w",
        "project_id": "shop",
        "made_by": "ann",
        "status": "ready",
        "running_calls": [],
        "created_at": "2026-05-01T12:00:00Z",
        "system": {"compose_file": "compose.yaml", "services": [web], "problem": "web: is unhealthy"},
    }
    gateway.on(f"GET /environments/{ID}", Answer(row))
    made = run("environment", "create", "shop", "--base", "next")
    assert made.exit_code == 0, made.output
    assert f"Made {ID} on here: /w" in made.output
    assert gateway.requests[0].body == {"project": "shop", "base_branch": "next"}
    assert gateway.requests[1].query == {"wait_for": "7"}
    shown = run("environment", "show", ID).output
    assert "made by" in shown
    assert "(web: is unhealthy)" in shown
    assert "127.0.0.1:20080 -> 80" in shown
    gateway.on(f"POST /environments/{ID}/remove", Answer({"id": ID, "outcome": "accepted", "sequence": 9}))
    assert f"Removed {ID}." in run("environment", "remove", ID, "--reason", "done").output


def test_calls_are_waited_for(gateway: StubGateway, run: Run) -> None:
    """However long they take; what they printed is shown as it is."""
    look = f"/api/v1/environments/{ID}/calls/{ID}-by-1"
    gateway.on(CALLS, Answer({"id": f"{ID}-by-1", "state": "requested", "location": look}, 202))
    running = Answer({"id": f"{ID}-by-1", "state": "running", "location": look}, 202)
    gateway.on(f"GET /environments/{ID}/calls/{ID}-by-1", running, ended(result="compose.yaml is up.\n"))
    up = run("compose", "up", ID, "-f", "deploy/compose.yaml", "--timeout", "30", "--no-build")
    assert (up.exit_code, up.stdout) == (0, "compose.yaml is up.\n")
    assert gateway.requests[0].body == {
        "tool": "compose_up",
        "arguments": {"compose_file": "deploy/compose.yaml", "timeout_seconds": 30.0, "build": False},
    }
    assert len(gateway.requests) == 3


def test_each_command_is_its_tool(gateway: StubGateway, run: Run) -> None:
    """With its arguments; ``--json`` prints the call."""
    gateway.on(CALLS, ended(result="fine", exit_code=0))
    for arguments, tool, given in (
        (("down", ID, "-v"), "compose_down", {"volumes": True}),
        (("status", ID), "compose_status", {}),
        (("exec", ID, "web", "ls"), "compose_exec", {"service": "web", "command": "ls", "timeout_seconds": 60.0}),
        (("restart", ID, "web"), "restart_service", {"service": "web"}),
        (("logs", ID, "web", "-n", "5"), "tail_logs", {"service": "web", "lines": 5}),
    ):
        done = run("compose", *arguments, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["result"] == "fine"
        assert gateway.requests[-1].body == {"tool": tool, "arguments": given}


def test_failures_have_exit_codes(gateway: StubGateway, run: Run) -> None:
    """Of the call, of the command in a service, and of what cannot be asked for."""
    gateway.on(
        CALLS,
        ended(state="failed", detail="system-unhealthy: service web is unhealthy.", result="the last lines"),
        ended(result="oh", exit_code=3),
        problem(409, "environment-missing", "environment shop-env-1 does not stand: nothing can be executed in it."),
    )
    failed = run("compose", "up", ID)
    assert failed.exit_code == 1
    assert "the last lines" in failed.output
    assert "compose_up failed: system-unhealthy: service web is unhealthy." in failed.output
    assert run("compose", "exec", ID, "web", "false").exit_code == 1
    assert "does not stand" in run("compose", "status", ID).output
