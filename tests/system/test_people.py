"""People in environments: one of their own, a system composed in it, and what remains of both."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from infra.docker import labels
from infra.docker.engine import Engine
from tests.composing import WEB
from tests.engine import require
from tests.integration import git_examples
from tests.system.stack import SystemStack

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

# What lives in containers here is the composed system.
WORKER = {"isolation": "worktree"}


@pytest.fixture(scope="module")
def environment(stack: SystemStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An environment that a person made, of a repository with a Compose file."""
    asyncio.run(require())
    folder = tmp_path_factory.mktemp("repository")
    stack.project("web", git_examples.repository(folder / "web", {"compose.yaml": WEB, "README.md": "# Web\n"}))
    return str(stack.json("environment", "create", "web")["id"])


def test_system_of_a_person_survives_the_environment_manager(stack: SystemStack, environment: str) -> None:
    """Killed in the middle of ``compose up``: the call goes on, and who asked gets the answer."""
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(stack.json("compose", "up", environment)))
    asking.start()
    stack.feed.until("ToolCallStarted", environment, tool="compose_up")
    stack.until_back("environment-manager", stack.kill("environment-manager"))
    asking.join(60)
    assert answers[0]["state"] == "completed", answers
    assert "compose.yaml is up" in answers[0]["result"]
    asked = stack.feed.until("CallRequested", environment, tool="compose_up")
    assert (asked.event["by"], asked.actor) == ("local", "local")
    assert stack.feed.until("ToolCallUncertain", environment).event["resolution"] == "execute-again"
    assert len(stack.feed.all("ToolCallCompleted", environment, tool="compose_up")) == 1
    row = stack.get(f"/environments/{environment}", wait_for=stack.last_sequence())
    assert (row["project_id"], row["made_by"], row["task_id"], row["status"]) == ("web", "local", "", "ready")
    assert stack.get(f"/environments/{environment}/services")["system"]["services"][0]["health"] == "healthy"


def test_every_tool_is_a_persons(stack: SystemStack, environment: str) -> None:
    """Also those of agents; what cannot be is refused at once."""
    calls = f"/environments/{environment}/calls"
    stack.json("compose", "up", environment)
    done = stack.post(calls, {"tool": "shell", "arguments": {"command": "cat README.md; exit 3"}})
    assert (done["state"], done["result"], done["exit_code"]) == ("completed", "# Web\n", 3)
    assert stack.get(f"{calls}/{done['id']}")["result"] == "# Web\n"
    assert "running, healthy" in stack.cairn("compose", "status", environment)
    assert "made by" in stack.cairn("environment", "show", environment)
    assert "did you mean web" in stack.cairn("compose", "restart", environment, "wep", exit_code=1).lower()
    for tool, arguments in (("submit", {"summary": ""}), ("rm", {}), ("read_file", {"path": ""})):
        stack.post(calls, {"tool": tool, "arguments": arguments}, status=422)
    stack.post("/environments/web-env-none/calls", {"tool": "compose_status"}, status=409)
    stack.post("/environments", {"project": "nowhere"}, status=404)


def test_removed_with_its_system(stack: SystemStack, environment: str, tmp_path: Path) -> None:
    """Nothing of it is left, in the engine or on the disk."""
    workspace = Path(stack.get(f"/environments/{environment}")["workspace"])
    assert workspace.exists()
    stack.cairn("environment", "remove", environment)
    removed = stack.feed.until("EnvironmentRemoved", environment)
    assert stack.get(f"/environments/{environment}", wait_for=removed.sequence)["status"] == "removed"
    assert not workspace.exists()
    assert asyncio.run(_containers(environment)) == []


async def _containers(environment: str) -> list[Any]:
    async with Engine() as engine:
        return await engine.containers({labels.ENVIRONMENT: environment})
