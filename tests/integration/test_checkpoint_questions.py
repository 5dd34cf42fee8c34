"""What an environment-manager answers about its checkpoints, over real git, and what becomes of it in a bundle."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from events.checkpoints import BundleCheckpoints, CompareCheckpoints, PackWorkspace
from events.envelope import CommandEnvelope
from events.environment import ENVIRONMENT, Environment, EnvironmentPrepared
from events.errors import CommandRejected, NotFound
from events.kernel import Command
from infra.clock import SystemClock
from infra.entities import Cause, EntityStore
from infra.memory.plumbing import Memory
from services.environment_manager.adapters.workspaces import GitWorkspaces
from services.environment_manager.bundles import Bundles
from services.environment_manager.checkpoints import CheckpointHandlers
from services.gateway.archived import ArchivedCheckpoints, unpack_checkpoints
from services.gateway.bundle import Bundle, Manifest, write
from tests.integration.git_examples import repository
from tests.unit.environment_twins import PREPARED
from tests.unit.examples import NOW

pytestmark = pytest.mark.integration

ID = "shop-1-development"


async def _no_events(*_: object) -> Environment:
    raise AssertionError


class Host:
    """A host with one environment: ``first`` and ``second`` are its checkpoints."""

    async def stand(self, tmp_path: Path) -> Host:
        memory, clock = Memory(), SystemClock()
        workspaces = GitWorkspaces(tmp_path / "home")
        url = str(repository(tmp_path / "source", {".gitattributes": "hidden.txt export-ignore\n", "a.txt": "a\n"}))
        prepared = await workspaces.prepare(ID, url, base_branch="", bases=())
        environments = EntityStore(memory.log, ENVIRONMENT, clock)
        event = EnvironmentPrepared(
            task_id="shop-1",
            host="here",
            isolation="worktree",
            repository_url=url,
            base_branch="main",
            base_commit=prepared.base_commit,
            commit=prepared.commit,
            tree=prepared.tree,
            workspace=str(prepared.workspace),
        )
        await environments.decide(ID, Cause(id="prepared"), lambda state: (event,))
        self.first = prepared.commit
        (prepared.workspace / "hidden.txt").write_text("not for export\n")
        (prepared.workspace / "ünïcode name.txt").write_text("u\n")
        (prepared.workspace / "run.sh").write_text("#!/bin/sh\n")
        (prepared.workspace / "run.sh").chmod(0o755)
        (prepared.workspace / "link").symlink_to("/nowhere")
        self.second = (await workspaces.checkpoint(ID, "changed")).commit
        self.content = memory.content
        bundles = Bundles(environments, workspaces, memory.content, clock, _no_events, enabled=False)
        self.handlers = CheckpointHandlers(environments, workspaces, bundles, memory.content)
        return self

    async def ask(self, command: Command, id: str = ID) -> bytes:
        outcome = await self.handlers.handle(CommandEnvelope("q", "default", "checkpoint", id, NOW, command))
        data = await self.content.get(outcome.content)
        assert data is not None
        return data


@pytest.fixture
async def host(tmp_path: Path) -> Host:
    return await Host().stand(tmp_path)


def members(data: bytes) -> dict[str, tuple[int, str]]:
    """What an archive holds: name → whether it is executable, and its text or where it leads."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None or member.issym():
                text = file.read().decode() if file is not None else member.linkname
                found[member.name] = (member.mode & 0o100 if file is not None else 0, text)
    return found


EXPECTED = {
    ".gitattributes": (0, "hidden.txt export-ignore\n"),
    "a.txt": (0, "a\n"),
    "hidden.txt": (0, "not for export\n"),
    "ünïcode name.txt": (0, "u\n"),
    "run.sh": (0o100, "#!/bin/sh\n"),
    "link": (0, "/nowhere"),
}


async def test_workspace_is_packed_as_it_was(host: Host) -> None:
    """Every file with its mode, links as links, nothing left out; the same bytes each time."""
    data = await host.ask(PackWorkspace(commit=host.second))
    assert members(data) == EXPECTED
    assert await host.ask(PackWorkspace(commit=host.second)) == data


async def test_diff_of_two_checkpoints(host: Host) -> None:
    """From the older one to the newer one."""
    diff = (await host.ask(CompareCheckpoints(older=host.first, newer=host.second))).decode()
    assert "+not for export" in diff
    assert await host.ask(CompareCheckpoints(older=host.first, newer=host.first)) == b""


async def test_questions_without_an_answer(host: Host) -> None:
    """A commit that is not here and an environment that never was are rejections, each with its slug."""
    with pytest.raises(CommandRejected) as missing:
        await host.ask(PackWorkspace(commit="0" * 40))
    assert missing.value.slug == "checkpoint-missing"
    with pytest.raises(NotFound):
        await host.ask(BundleCheckpoints(), "shop-9-development")


async def test_bundled_checkpoints_are_what_they_were(host: Host, tmp_path: Path) -> None:
    """Out of a bundle comes the same workspace and the same diff as from the host."""
    manifest = Manifest(format="cairn-run", schema=1, cairn="0", tenant="t", run="r", task="shop-1", exported_at=NOW)
    write(tmp_path / "b.zip", manifest, [], {f"checkpoints/{ID}.bundle": await host.ask(BundleCheckpoints())})
    bundle = Bundle(tmp_path / "b.zip")
    unpack_checkpoints(bundle, tmp_path / "c.git")
    archived = ArchivedCheckpoints(tmp_path / "c.git", bundle.manifest)
    environment = ENVIRONMENT.fold(ID, [PREPARED])
    assert members(await archived.pack(environment, host.second)) == EXPECTED
    live = await host.ask(CompareCheckpoints(older=host.first, newer=host.second))
    assert await archived.diff(environment, host.first, host.second) == live
    with pytest.raises(CommandRejected, match="does not hold that checkpoint"):
        await archived.check(environment, "0" * 40)
