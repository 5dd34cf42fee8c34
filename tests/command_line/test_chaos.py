"""``cairn chaos``: what is sent, what is shown, and the exit code that tells the verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line.conftest import Run
from tests.command_line.rows import accepted
from tests.command_line.stub_gateway import Answer, StubGateway, page, problem


def row(status: str, **changes: Any) -> dict[str, Any]:
    fault = {"kind": "kill_service", "service": "worker", "duration_seconds": 5}
    return {
        "id": "experiment-1",
        "title": "A worker is killed",
        "target": "shop-1-test",
        "host": "here",
        "reason": "",
        "requested_by": "local",
        "run_id": "",
        "call_id": "",
        "dry_run": False,
        "status": status,
        "cause": "",
        "summary": "jobs were lost",
        "findings": [
            {"kind": "samples-failed", "about": "jobs", "text": "jobs 7, 9 are lost", "recommendation": "retry"}
        ],
        "faults": [{"fault": fault, "containers": ["worker-1"], "peers": [], "state": "undone", "detail": ""}],
        "recovery_seconds": 1.5,
        "requested_at": "2026-05-01T12:00:00Z",
        "ended_at": None,
        "updated_at": "2026-05-01T12:00:09Z",
        "sequence": 9,
        **changes,
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "worker.yaml"
    path.write_text("title: A worker is killed\n")
    return path


@pytest.mark.parametrize(("verdict", "code"), [("completed", 0), ("deviated", 1), ("aborted", 1), ("refused", 1)])
def test_the_exit_code_tells_the_verdict(run: Run, gateway: StubGateway, file: Path, verdict: str, code: int) -> None:
    """The file goes as it is; the states are told until it has ended, then the findings."""
    gateway.on("POST /experiments", Answer(accepted("experiment-1"), 201))
    gateway.on("GET /experiments/experiment-1", Answer(row("observing")), Answer(row(verdict)))
    result = run("chaos", "run", str(file), "--environment", "shop-1-test", "--reason", "before the release", "--wait")
    assert result.exit_code == code
    assert gateway.requests[0].body == {
        "document": "title: A worker is killed\n",
        "target": "shop-1-test",
        "host": "",
        "reason": "before the release",
        "dry_run": False,
    }
    assert "jobs 7, 9 are lost" in result.output
    assert "1.5 s after the last fault" in result.output


def test_without_waiting_it_says_where_to_look(run: Run, gateway: StubGateway, file: Path) -> None:
    """And with --json what the gateway answered."""
    gateway.on("POST /experiments", Answer(accepted("experiment-1"), 201))
    assert "cairn chaos abort experiment-1" in run("chaos", "run", str(file), "-e", "shop-1-test").output
    result = run("chaos", "run", str(file), "-e", "shop-1-test", "--json")
    assert json.loads(result.output)["id"] == "experiment-1"


def test_a_dry_run_names_the_containers(run: Run, gateway: StubGateway, file: Path) -> None:
    """It asks for nothing else."""
    gateway.on("POST /experiments", Answer(accepted("experiment-1"), 201))
    gateway.on("GET /experiments/experiment-1", Answer(row("checked")))
    result = run("chaos", "dry-run", str(file), "-e", "compose:shop")
    assert (result.exit_code, gateway.requests[0].body["dry_run"]) == (0, True)
    assert "worker-1" in result.output


def test_refusals_and_bad_files(run: Run, gateway: StubGateway, file: Path, tmp_path: Path) -> None:
    """The gateway's own words, and exit codes that scripts can tell apart."""
    gateway.on("POST /experiments", problem(422, "invalid-experiment", "experiment, method: it is empty"))
    result = run("chaos", "run", str(file), "-e", "shop-1-test", "--wait")
    assert (result.exit_code, "method: it is empty" in result.output) == (2, True)
    gateway.on("POST /experiments", problem(409, "halted", "chaos is halted by ada"))
    assert run("chaos", "run", str(file), "-e", "shop-1-test").exit_code == 1
    assert run("chaos", "run", str(tmp_path / "nothing.yaml"), "-e", "shop-1-test").exit_code == 2


def test_lists_and_the_halt(run: Run, gateway: StubGateway) -> None:
    """Experiments with their verdicts; whether chaos is halted, and what each host can do."""
    gateway.on("GET /experiments", page(row("deviated")))
    assert "deviated" in run("chaos", "list").output
    hosts = [{"host": "here", "faults": {"kill_service": "", "add_latency": "no nfqueue"}, "at": ""}]
    body = {"halted": True, "halted_by": "ada", "reason": "incident", "hosts": hosts}
    gateway.on("GET /chaos", Answer(body))
    shown = run("chaos", "faults").output
    assert "halted by ada: incident" in shown
    assert "no nfqueue" in shown
    gateway.on("GET /experiments/experiment-1/journal", Answer({"status": "completed"}))
    assert json.loads(run("chaos", "show", "experiment-1", "--journal").output) == {"status": "completed"}
    for command in ("halt", "resume"):
        gateway.on(f"POST /chaos/{command}", Answer(accepted("halt")))
        assert run("chaos", command, "--reason", "r").exit_code == 0
    gateway.on("POST /experiments/experiment-1/abort", Answer(accepted("experiment-1")))
    assert run("chaos", "abort", "experiment-1").exit_code == 0
