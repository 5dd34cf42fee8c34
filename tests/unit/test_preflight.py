"""What a worker finds out about the programs of agents, and what placement makes of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from events.agents import Agent, ModelAgent, ProgramAgent
from events.errors import Invalid
from events.preflight import Finding, why_unfit
from infra.clock import SystemClock
from services.environment_manager.adapters.programs import try_program
from services.environment_manager.preflight import Preflight
from tests.waiting import until


def program(folder: Path, script: str) -> str:
    path = folder / "agent"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def test_program_that_answers_is_fit(tmp_path: Path) -> None:
    """What it says is told; one that knows no such option says so with exit code 2."""
    found = await try_program(
        program(tmp_path, 'test "$1" = --version && echo "agent 1.2" && echo more'), ["--version"]
    )
    assert found == Finding(said="agent 1.2")
    assert (await try_program(program(tmp_path, "echo usage >&2; exit 2"), ["--version"])).problem == ""


async def test_program_that_fails_says_why(tmp_path: Path) -> None:
    """Its exit code, and its first line."""
    found = await try_program(program(tmp_path, "echo no such module >&2; exit 1"), ["--version"])
    assert found.problem.endswith("--version` ended with exit code 1: no such module")


async def test_program_that_is_not_there_or_cannot_be_run(tmp_path: Path) -> None:
    """Not found, not executable, not a program."""
    assert "is not there" in (await try_program("no-such-agent", ["--version"])).problem
    text = tmp_path / "text"
    text.write_text("words")
    assert "is not there" in (await try_program(str(text), ["--version"])).problem
    text.chmod(0o755)
    assert "cannot be started" in (await try_program(str(text), ["--version"])).problem


async def test_program_that_does_not_end_is_ended_with_all_it_started(tmp_path: Path) -> None:
    """It has its time, and no more; nothing of it is left."""
    script = f'sleep 60 & echo $! > "{tmp_path}/child"; wait'
    began = time.monotonic()
    found = await try_program(program(tmp_path, script), ["--version"], answer_seconds=2)
    assert "did not end within 2 s" in found.problem
    assert time.monotonic() - began < 30
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/cmdline")
    await until(lambda: not (child.exists() and child.read_bytes()))  # It dies when it is its turn to run.


async def test_program_without_arguments_is_not_started(tmp_path: Path) -> None:
    """It only has to be there."""
    assert await try_program(program(tmp_path, f'touch "{tmp_path}/started"'), []) == Finding()
    assert not (tmp_path / "started").exists()


async def test_program_sees_no_secrets(tmp_path: Path) -> None:
    """Of the service's variables only the search path."""
    os.environ["CAIRN_TEST_SECRET"] = "hush"
    try:
        found = await try_program(program(tmp_path, 'echo "[$CAIRN_TEST_SECRET]"'), ["--version"])
    finally:
        del os.environ["CAIRN_TEST_SECRET"]
    assert found.said == "[]"


class Agents:
    def __init__(self, **agents: Agent) -> None:
        self.agents: dict[str, Agent] | None = agents

    def __call__(self) -> dict[str, Agent]:
        if self.agents is None:
            raise Invalid("misspelt")
        return self.agents


async def test_each_program_of_the_host_is_tried_once() -> None:
    """Not models, not what lies in the working copy; with settings that cannot be read the last findings stand."""
    tried: list[tuple[str, tuple[str, ...]]] = []

    async def attempt(name: str, arguments: object) -> Finding:
        tried.append((name, tuple(arguments)))  # type: ignore[call-overload]
        return Finding(said=name)

    agents = Agents(
        a=ProgramAgent(command=("claude", "-p")),
        b=ProgramAgent(command=("claude", "-p", "more")),
        c=ProgramAgent(command=("./agent.sh",)),
        d=ProgramAgent(command=("/opt/agent",), preflight=("check",)),
        e=ModelAgent(provider="openai"),
    )
    preflight = Preflight(agents, attempt, SystemClock(), seconds=45.0)
    await preflight.look()
    assert tried == [("claude", ("--version",)), ("/opt/agent", ("check",))]
    agents.agents = None
    await preflight.look()
    assert preflight.sign().programs == {"claude": Finding(said="claude"), "/opt/agent": Finding(said="/opt/agent")}


def test_program_is_unfit_where_no_host_can_run_it() -> None:
    """One that can is enough, and nothing is held against a program that nobody tried."""
    bad, good = Finding(problem="'claude' is not there"), Finding(said="1")
    assert why_unfit("claude", {}) == ""
    assert why_unfit("claude", {"a": {"codex": bad}}) == ""
    assert why_unfit("claude", {"a": {"claude": bad}, "b": {"claude": good}}) == ""
    assert why_unfit("claude", {"a": {"claude": bad}, "b": {}}) == "'claude' is not there on a"
