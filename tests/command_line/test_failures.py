"""Failures: one clear line on standard error, an exit code that says which kind, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.embedded.ports import hold_port, port_of
from tests.command_line.conftest import Run, run_alone
from tests.command_line.stub_gateway import Answer, StubGateway, problem


@pytest.mark.parametrize(
    ("status", "exit_code"), [(404, 4), (422, 2), (400, 2), (409, 1), (500, 1), (503, 3), (413, 2)]
)
def test_problems_map_to_exit_codes(run: Run, gateway: StubGateway, status: int, exit_code: int) -> None:
    """A problem's detail is the message; its status decides the exit code."""
    gateway.on("GET /tasks/shop-9", problem(status, "slug", "Here is why."))
    result = run("task", "show", "shop-9")
    assert result.exit_code == exit_code
    assert result.stderr.startswith("Error: Here is why.")
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_a_wrong_key(gateway: StubGateway) -> None:
    """A key that the gateway does not know counts as not reached."""
    result = run_alone("--url", gateway.url, "--key", "cairn_wrong", "task", "list")
    assert result.exit_code == 3
    assert "not known here" in result.stderr


def test_nobody_answers() -> None:
    """The address that was tried stands in the message."""
    with hold_port() as held:
        url = f"http://127.0.0.1:{port_of(held)}"
        result = run_alone("--url", url, "--key", "k", "task", "list")
    assert result.exit_code == 3
    assert f"No Cairn answers at {url}" in result.stderr


def test_an_address_that_is_none() -> None:
    """It is refused with how one is written, before anything is asked."""
    result = run_alone("--url", "example.org:8420", "--key", "k", "task", "list")
    assert result.exit_code == 2
    assert "'example.org:8420' is no address of a Cairn." in result.stderr
    assert "http://HOST:8420" in result.stderr


def test_something_else_answers(run: Run, gateway: StubGateway) -> None:
    """A server that is no gateway is named as such."""
    gateway.on("GET /tasks", Answer(b"<html>", 200, "text/html"))
    result = run("task", "list")
    assert result.exit_code == 3
    assert "is it a Cairn gateway?" in result.stderr


def test_nothing_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a stack and without an address the command says how to start one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CAIRN_URL", raising=False)
    result = run_alone("task", "list")
    assert result.exit_code == 3
    assert "start one with `cairn up`" in result.stderr


def test_usage(run: Run) -> None:
    """A command that does not exist, and an argument that is missing, are usage errors."""
    assert run("taks").exit_code == 2
    assert run("task", "show").exit_code == 2


def test_text_of_agents_cannot_drive_the_terminal(run: Run, gateway: StubGateway) -> None:
    """Control characters in what the gateway tells are not printed."""
    gateway.on("GET /tasks/x", problem(404, "not-found", "evil \x1b]0;title\x07 text"))
    result = run("task", "show", "x")
    assert "\x1b" not in result.output
    assert "\x07" not in result.output
