"""The record that an agent program keeps of its session: laid aside, compared, put back."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from events.environment import ToolCallCompleted, WorkspaceDiverged, WorkspaceReconciled
from events.errors import Permanent
from infra.entities import Cause
from services.environment_manager import sessions
from tests.unit.environment_twins import Environments
from tests.unit.test_executor import CAUSE, begin, call
from tests.unit.test_inspection import said
from tests.waiting import until

FILE = "~/.agent/session.jsonl"


def test_session_is_put_back_as_it_was_laid_aside(tmp_path: Path) -> None:
    """In the home that the program sees, or in the working copy."""
    for name, place in ((FILE, "home/.agent/session.jsonl"), ("session.txt", "workspace/session.txt")):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one")
        digest = sessions.keep(tmp_path, name)
        assert digest == hashlib.sha256(b"one").hexdigest()
        path.unlink()
        assert sessions.digest_of(tmp_path, name) == ""
        sessions.put_back(tmp_path, name, digest)
        assert path.read_text() == "one"


def test_session_outside_of_the_environment_is_refused(tmp_path: Path) -> None:
    """It is not the agent's; and one that was never kept cannot come back."""
    with pytest.raises(Permanent, match="leads out"):
        sessions.keep(tmp_path, "~/../../key")
    with pytest.raises(Permanent, match="was not kept"):
        sessions.put_back(tmp_path, FILE, "0" * 64)


@pytest.fixture
async def environments(tmp_path: Path) -> Environments:
    """Two calls of a program have ended, each with a session of its own."""
    environments = await Environments(tmp_path).stand()

    async def run(id: str) -> None:
        working = begin(environments, call(id, session_file=FILE))
        await until(lambda: id in environments.processes.started)
        environments.processes.end(id)
        await working

    for number in (1, 2):
        write(environments, f"after {number}")
        await run(f"c{number}")
    return environments


def write(environments: Environments, text: str) -> Path:
    path = sessions.place(environments.workspaces.directory(environments.id), FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


async def look(environments: Environments) -> None:
    environments.workspaces.tree = (await environments.plumbing.environments.load(environments.id))[0].tree
    await environments.inspector.inspect(environments.id, Cause(id="look"), session_file=FILE)


async def test_each_call_names_the_session_that_it_left(environments: Environments) -> None:
    """By its digest; what was found as it was left says nothing."""
    ends = [event for event in await said(environments) if isinstance(event, ToolCallCompleted)]
    assert [hashlib.sha256(f"after {number}".encode()).hexdigest() for number in (1, 2)] == [
        event.session for event in ends
    ]
    await look(environments)
    assert not [event for event in await said(environments) if isinstance(event, WorkspaceDiverged)]


@pytest.mark.parametrize(("text", "where"), [("after 1", "behind"), ("after 3", "ahead of")])
async def test_session_behind_or_ahead_of_the_log_is_told(environments: Environments, text: str, where: str) -> None:
    """Restored, it is what the last call left."""
    path = write(environments, text)
    await look(environments)
    diverged = (await said(environments))[-1]
    assert isinstance(diverged, WorkspaceDiverged)
    assert (diverged.kind, diverged.found.partition(", which is ")[2]) == ("session", f"{where} the log")
    await environments.inspector.reconcile(environments.id, "restore", CAUSE, session_file=FILE)
    assert path.read_text() == "after 2"
    assert isinstance((await said(environments))[-1], WorkspaceReconciled)


async def test_session_that_is_accepted_is_what_counts_from_then_on(environments: Environments) -> None:
    """Also that there is none."""
    for number, change in enumerate((lambda: write(environments, "after 3"), lambda: write(environments, "").unlink())):
        change()
        await look(environments)
        assert isinstance((await said(environments))[-1], WorkspaceDiverged)
        settle = Cause(id=f"settle-{number}")
        await environments.inspector.reconcile(environments.id, "accept", settle, session_file=FILE)
        before = len(await said(environments))
        await look(environments)
        assert len(await said(environments)) == before
