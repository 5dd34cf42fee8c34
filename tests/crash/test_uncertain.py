"""The host of a worker is lost while a tool runs, and each tool is resolved as it declares.

The tool says outside the workspace that it began, and never ends the first time: everything of the worker is killed
then, shims and tools too. What it is executed for the second time ends at once.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from events.agents import CommandTool, ModelAgent
from events.project import ProjectSettings, Repository
from events.task import TaskSpecification
from infra.faults.account import Account
from infra.faults.laboratory import PROJECT, WORKER, Laboratory
from tests.crash.workload import call, turn
from tests.integration import git_examples

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

# kind of tool: what it declares, how often it is executed, how it is resolved, and what the model is told
KINDS: dict[str, tuple[dict[str, object], int, str, str]] = {
    "none": ({"effects": "none"}, 2, "execute-again", "ended at last"),
    "workspace": ({"effects": "workspace"}, 2, "restore-and-execute-again", "ended at last"),
    "idempotent": ({"retry": "idempotent"}, 2, "execute-again", "ended at last"),
    "never": ({"retry": "never"}, 1, "told-agent", "may or may not have had its effects"),
    "happened": ({"retry": "probe", "probe": ("echo", "it is there")}, 1, "probed", "it is there"),
    "absent": ({"retry": "probe", "probe": ("false",)}, 2, "execute-again", "ended at last"),
    "unknown": ({"retry": "probe", "probe": ("sh", "-c", "exit 9")}, 1, "told-agent", "may or may not have had"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Laboratory]:
    directory = tmp_path_factory.mktemp("uncertain")
    counts = directory / "lab" / "executions"
    agents = {}
    for kind, (declared, *_) in KINDS.items():
        transcript = directory / f"{kind}.json"
        turns = [turn("", call(kind)), turn("", call("submit", summary="done"))]
        transcript.write_text(json.dumps({"turns": turns}))
        # What is half done when it is killed must be gone when it is executed again.
        script = (
            f'again=$(grep -c "$CAIRN_CALL_ID" "{counts}"); echo half >> half.txt; '
            f'echo "$CAIRN_CALL_ID {kind}" >> "{counts}"; [ "$again" -gt 0 ] || sleep 300; echo ended at last'
        )
        tool = CommandTool(description=kind, command=("/bin/sh", "-c", script), **declared)  # type: ignore[arg-type]
        agents[kind] = ModelAgent(provider="scripted", transcript=str(transcript), tools={kind: tool})
    repository = git_examples.repository(directory / "repository", {"README.md": "# Empty\n"})
    project = ProjectSettings(repository=Repository(url=str(repository)), prefix=PROJECT)
    lab = Laboratory(directory / "lab", agents, project)
    lab.directory.mkdir()
    counts.touch()
    try:
        await lab.start()
        yield lab
    finally:
        await lab.stop()


@pytest.mark.parametrize("kind", KINDS)
async def test_uncertain_call_is_resolved_as_declared(lab: Laboratory, kind: str, tmp_path: Path) -> None:
    """Executed again, or asked about, or not: never otherwise than declared, and the model is told the truth."""
    _, executions, resolution, told = KINDS[kind]
    lab.proxy.count()
    await lab.next_task(TaskSpecification(project=PROJECT, title=kind, agent=kind))
    begun = await lab.until(lambda account: bool(account.executions))
    assert sum(begun.executions.values()) == 1
    await lab.kill(WORKER)
    account = await lab.until(lambda account: account.settled)
    assert account.ended == "TaskCompleted", account.events
    assert sum(account.executions.values()) == executions
    (uncertain,) = [item for item in account.calls if item.tool == kind]
    assert uncertain.resolutions == (resolution,)
    assert (uncertain.starts, uncertain.ends) == (1, 1)
    assert told in _shown(account)
    if kind == "workspace":
        assert account.events_named("PullRequestOpened")[0].count("+half") == 1


def _shown(account: Account) -> str:
    """What the model was shown last."""
    (conversation,) = account.conversations.values()
    return next(message for message in reversed(conversation) if "ToolResults" in message)
