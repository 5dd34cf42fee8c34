"""Workspaces that are not as the log tells: what is found, what is held, and how each choice settles it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from events.content import Inline
from events.environment import (
    CheckpointBundled,
    EnvironmentInspected,
    EnvironmentLost,
    EnvironmentPrepared,
    EnvironmentRemoved,
    OrphanRemoved,
    ReconciliationFailed,
    ToolCallCompleted,
    WorkspaceDiverged,
    WorkspaceReconciled,
)
from events.kernel import Event, replace
from infra.entities import Cause
from services.environment_manager.reconcile import prepare_again
from tests.unit.environment_twins import Environments
from tests.unit.test_executor import CAUSE, begin, call, started
from tests.waiting import until

LOOK = Cause(id="look")


@pytest.fixture
async def environments(tmp_path: Path) -> Environments:
    return await Environments(tmp_path).stand()


async def said(environments: Environments, id: str = "") -> list[Event]:
    records = await environments.memory.log.load("environment", id or environments.id)
    return [event for record in records for event in record.envelope.events]


async def test_workspace_as_the_log_tells_it_is_answered_once(environments: Environments) -> None:
    """Whoever asked waits for the answer; the same question again says nothing new."""
    for _ in range(2):
        await environments.inspector.inspect(environments.id, LOOK, inspection_id="i1")
    assert (await said(environments))[1:] == [EnvironmentInspected(inspection_id="i1")]


async def test_changed_workspace_is_told_with_its_diff(environments: Environments) -> None:
    """Once, in the decision that answers."""
    environments.workspaces.tree = "t9"
    for id in ("i1", "i2"):
        await environments.inspector.inspect(environments.id, Cause(id=id), inspection_id=id)
    diverged = WorkspaceDiverged(kind="workspace", expected="t0", found="t9", diff=Inline("-t0\n+t9\n"))
    answers = [EnvironmentInspected(inspection_id=id) for id in ("i1", "i2")]
    assert (await said(environments))[1:] == [diverged, *answers]


async def test_nothing_is_said_of_a_workspace_in_which_a_call_runs(environments: Environments) -> None:
    """The call may be what changes it."""
    await environments.executor.append(environments.id, CAUSE, lambda state: (started("c1"),))
    environments.workspaces.tree = "t9"
    await environments.inspector.inspect(environments.id, LOOK, inspection_id="i1")
    assert (await said(environments))[-1] == EnvironmentInspected(inspection_id="i1")


async def test_no_call_begins_until_it_is_settled(environments: Environments) -> None:
    """Neither one that changes something nor one that only looks; sent again afterwards, it is executed."""
    environments.workspaces.tree = "t9"
    await environments.inspector.inspect(environments.id, LOOK)
    await begin(environments, call("c1"))
    await begin(environments, call("c2", "noop", "none"))
    assert environments.processes.started == []
    assert isinstance((await said(environments))[-1], WorkspaceDiverged)
    await environments.inspector.reconcile(environments.id, "restore", Cause(id="settle"))
    await begin(environments, call("c2", "noop", "none"))
    assert isinstance((await said(environments))[-1], ToolCallCompleted)


@pytest.mark.parametrize(("choice", "restored"), [("restore", ["c0"]), ("accept", [])])
async def test_each_choice_ends_with_log_and_workspace_alike(
    environments: Environments, choice: str, restored: list[str]
) -> None:
    """The last checkpoint comes back, or the present becomes the next one; repeated, nothing happens again."""
    environments.workspaces.tree = "t9"
    await environments.inspector.inspect(environments.id, LOOK)
    environments.workspaces.commit = "c0" if choice == "restore" else "c9"
    for number in range(2):
        await environments.inspector.reconcile(environments.id, choice, Cause(id=f"settle-{number}"))
    commit = environments.workspaces.commit
    settled = WorkspaceReconciled(choice=choice, checkpoint=commit, tree=f"tree of {commit}")
    assert (await said(environments))[2:] == [settled]
    assert environments.workspaces.restored == restored


async def test_missing_checkpoint_is_told_and_the_one_before_it_restored(environments: Environments) -> None:
    """Where none is left, that is said, and it stays diverged."""
    ended = ToolCallCompleted(call_id="c1", run_id="r1", tool="shell", duration_ms=1, checkpoint="c1", tree="t1")
    await environments.executor.append(environments.id, CAUSE, lambda state: (started("c1"), ended))
    environments.workspaces.commit, environments.workspaces.missing = "c1", {"c1"}
    await environments.inspector.inspect(environments.id, LOOK)
    assert (await said(environments))[-1] == WorkspaceDiverged(kind="checkpoint", expected="c1", found="no checkpoint")
    environments.workspaces.missing = {"c0", "c1"}
    await environments.inspector.reconcile(environments.id, "restore", Cause(id="settle-1"))
    failed = (await said(environments))[-1]
    assert isinstance(failed, ReconciliationFailed)
    assert (failed.choice, failed.cause) == ("restore", "checkpoint-missing")
    environments.workspaces.missing = {"c1"}
    await environments.inspector.reconcile(environments.id, "restore", Cause(id="settle-2"))
    assert environments.workspaces.restored == ["c0"]
    assert isinstance((await said(environments))[-1], WorkspaceReconciled)


async def test_deleted_workspace_is_lost_when_a_call_wants_it(environments: Environments) -> None:
    """The call does not begin, and is executed when the workspace is there again."""
    environments.workspaces.gone.add(environments.id)
    await begin(environments, call("c1"))
    assert isinstance((await said(environments))[-1], EnvironmentLost)
    environments.workspaces.gone.clear()
    await environments.keeper.start()
    state, _ = await environments.plumbing.environments.load(environments.id)
    await environments.handlers.prepare(environments.id, prepare_again(state), Cause(id="again"))
    working = begin(environments, call("c1"))
    await asyncio.sleep(0)
    environments.processes.end("c1")
    await working
    kinds = [type(event) for event in await said(environments)]
    assert kinds[:3] == [EnvironmentPrepared, EnvironmentLost, EnvironmentPrepared]
    assert kinds[-1] is ToolCallCompleted


async def test_keeper_tells_of_a_workspace_that_vanished(environments: Environments) -> None:
    """At its start, before anybody asks for it; and what the log does not know it removes, and says so."""
    environments.workspaces.gone.add(environments.id)
    environments.workspaces.environments.append("orphan-1-development")
    environments.workspaces.directory("orphan-1-development").mkdir()
    following = await environments.keeper.start()
    await following.close()
    assert isinstance((await said(environments))[-1], EnvironmentLost)
    (orphan,) = await said(environments, "orphan-1-development")
    assert isinstance(orphan, OrphanRemoved)
    assert (orphan.kind, orphan.name) == ("workspace", "orphan-1-development")
    assert "orphan-1-development" not in environments.workspaces.environments


async def test_keeper_removes_checkpoints_that_nobody_can_ask_for(environments: Environments) -> None:
    """And says so; those of an environment that the log has stay, also when it is removed."""
    await environments.keeper.remove(environments.id, "task shop-1 is completed")
    environments.workspaces.checkpoints = [environments.id, "orphan-1-development"]
    keeping = asyncio.create_task(environments.keeper.run())
    try:
        told = await until(lambda: said(environments, "orphan-1-development"))
    finally:
        keeping.cancel()
    assert told == [OrphanRemoved(kind="checkpoints", name="orphan-1-development", reason="it is not in the log")]
    assert environments.workspaces.checkpoints == [environments.id]


async def test_command_that_comes_again_does_not_bring_back_what_was_removed(environments: Environments) -> None:
    """Its answer got lost: what it made was removed since. Whoever needs the workspace again asks anew."""
    id = "shop-2-development"
    command = replace(prepare_again((await environments.plumbing.environments.load(environments.id))[0]), task_id="")
    await environments.handlers.prepare(id, command, Cause(id="asked"))
    await environments.keeper.remove(id, "nobody needs it")
    await environments.handlers.prepare(id, command, Cause(id="asked"))
    assert not (await environments.plumbing.environments.load(id))[0].stands
    await environments.handlers.prepare(id, command, Cause(id="asked anew"))
    assert (await environments.plumbing.environments.load(id))[0].stands


async def test_removed_environment_leaves_its_last_checkpoint_for_other_hosts(tmp_path: Path) -> None:
    """Its task may be opened again, and go on where only what is bundled can be had."""
    environments = await Environments(tmp_path, bundled=True).stand()
    environments.workspaces.commit = "c1"
    working = begin(environments, call("c1"))
    await until(lambda: environments.processes.running)
    environments.processes.end("c1")
    await working
    await environments.keeper.remove(environments.id, "task shop-1 is cancelled")
    bundled, removed = (await said(environments))[-2:]
    assert isinstance(bundled, CheckpointBundled)
    assert bundled.checkpoint == "c1"
    assert isinstance(removed, EnvironmentRemoved)


async def test_accepted_workspace_is_bundled(tmp_path: Path) -> None:
    """As soon as after a call: another stage may begin with it on another host."""
    environments = await Environments(tmp_path, bundled=True).stand()
    environments.workspaces.tree = "t8"
    await environments.inspector.inspect(environments.id, LOOK)
    environments.workspaces.commit = "c8"
    await environments.inspector.reconcile(environments.id, "accept", Cause(id="settle"))
    kept = environments.plumbing.environments
    await until(lambda: (state := kept.peek(environments.id)) is not None and state[0].bundled == "c8")
