"""Checkpoints on their way to another host: packs that fit on one another, and what is published from there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.environment_manager.adapters.workspaces import GitWorkspaces
from tests.integration.git_examples import bare, commit, files_in, git, prepared, refused, repository, write

pytestmark = pytest.mark.integration

ID = "shop-1-development"


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return bare(tmp_path / "remote.git", repository(tmp_path / "source"))


async def packs(*items: bytes) -> AsyncIterator[bytes]:
    for item in items:
        yield item


async def test_checkpoints_go_to_another_host(remote: Path, tmp_path: Path) -> None:
    """A chain of small packs is enough, together with what the remote has; the workspace is the same there."""
    here, there = GitWorkspaces(tmp_path / "a"), GitWorkspaces(tmp_path / "b")
    first = await prepared(here, remote)
    write(first.workspace, {"big.txt": "".join(f"line {number}\n" for number in range(20_000)), "sub/x.sh": "x"})
    (first.workspace / "sub/x.sh").chmod(0o755)
    second = await here.checkpoint(ID, "second")
    write(first.workspace, {"big.txt": "".join(f"line {number}\n" for number in range(20_001))})
    (first.workspace / "README.md").unlink()
    third = await here.checkpoint(ID, "third")
    url = str(remote)
    chain = [
        await here.bundle(url, [first.commit], [first.base_commit]),
        await here.bundle(url, [second.commit], [first.base_commit, first.commit]),
        await here.bundle(url, [third.commit], [first.base_commit, first.commit, second.commit]),
    ]
    assert len(chain[2]) < 2000 < len(chain[1])

    await there.unbundle(ID, url, third.commit, first.base_commit, packs(*chain))
    again = await there.prepare(ID, url, base_branch="", bases=(), restore=third.commit)
    assert again.tree == third.tree
    assert files_in(again.workspace) == files_in(first.workspace)
    await there.restore(ID, second.commit)
    assert (again.workspace / "sub/x.sh").stat().st_mode & 0o100
    assert "README.md" in files_in(again.workspace)


async def test_merged_bundle_takes_the_place_of_its_parts(remote: Path, tmp_path: Path) -> None:
    """What a restore left behind is carried too."""
    here, there = GitWorkspaces(tmp_path / "a"), GitWorkspaces(tmp_path / "b")
    first = await prepared(here, remote)
    write(first.workspace, {"left.txt": "left\n"})
    left = await here.checkpoint(ID, "left behind")
    await here.restore(ID, first.commit)
    write(first.workspace, {"kept.txt": "kept\n"})
    kept = await here.checkpoint(ID, "kept")
    pack = await here.bundle(str(remote), [kept.commit, left.commit, first.commit], [first.base_commit])
    await there.unbundle(ID, str(remote), kept.commit, first.base_commit, packs(pack))
    assert "left.txt" in await there.diff(str(remote), first.commit, left.commit)


async def test_what_is_here_is_not_read_again(remote: Path, tmp_path: Path) -> None:
    """The packs of a checkpoint that is here are left alone, and so is its environment."""
    here = GitWorkspaces(tmp_path / "a")
    first = await prepared(here, remote)
    await here.unbundle(ID, str(remote), first.commit, first.base_commit, packs(b"no pack"))
    assert await here.tree(ID) == first.tree


async def test_chain_with_a_hole_is_refused(remote: Path, tmp_path: Path) -> None:
    """Half of a workspace is none."""
    here, there = GitWorkspaces(tmp_path / "a"), GitWorkspaces(tmp_path / "b")
    first = await prepared(here, remote)
    write(first.workspace, {"new.txt": "new\n"})
    second = await here.checkpoint(ID, "second")
    pack = await here.bundle(str(remote), [first.commit], [first.base_commit])
    error = await refused(there.unbundle(ID, str(remote), second.commit, first.base_commit, packs(pack)))
    assert error.slug == "checkpoint-missing"


async def test_base_commit_that_the_branch_left_behind_is_fetched(tmp_path: Path) -> None:
    """The base branch went on since, as it does."""
    source = repository(tmp_path / "source")
    here, there = GitWorkspaces(tmp_path / "a"), GitWorkspaces(tmp_path / "b")
    first = await prepared(here, source)
    commit(source, {"later.txt": "later\n"})
    pack = await here.bundle(str(source), [first.commit], [first.base_commit])
    await there.unbundle(ID, str(source), first.commit, first.base_commit, packs(pack))
    again = await there.prepare(ID, str(source), base_branch="", bases=(), restore=first.commit)
    assert "later.txt" not in files_in(again.workspace)


async def test_another_host_publishes_over_what_the_log_knows_as_pushed(remote: Path, tmp_path: Path) -> None:
    """Without that it looks like somebody else's branch."""
    here, there = GitWorkspaces(tmp_path / "a"), GitWorkspaces(tmp_path / "b")
    first = await prepared(here, remote)
    write(first.workspace, {"new.txt": "1\n"})
    second = await here.checkpoint(ID, "second")
    url = str(remote)
    published = await here.publish(url, second.commit, branch="cairn/shop-1", message="One")
    pack = await here.bundle(url, [second.commit], [first.base_commit])
    await there.unbundle(ID, url, second.commit, first.base_commit, packs(pack))
    again = await there.prepare(ID, url, base_branch="", bases=(), restore=second.commit)
    write(again.workspace, {"new.txt": "2\n"})
    third = await there.checkpoint(ID, "third")
    error = await refused(there.publish(url, third.commit, branch="cairn/shop-1", message="Two"))
    assert error.slug == "push-refused"
    await there.publish(url, third.commit, branch="cairn/shop-1", message="Two", earlier={published.commit})
    assert git(remote, "show", "cairn/shop-1:new.txt") == "2"
