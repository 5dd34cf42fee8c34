"""Workspaces over real git: what an agent sees, what they begin with, how they go, what a crash leaves."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import pytest

from events.errors import Transient
from services.environment_manager.adapters.workspaces import GitWorkspaces
from tests.integration.git_examples import commit, files_in, git, prepared, refused, repository, write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return repository(tmp_path / "source")


@pytest.fixture
def workspaces(tmp_path: Path) -> GitWorkspaces:
    return GitWorkspaces(tmp_path / "home")


# ---- prepare


async def test_prepare_shows_the_default_branch(workspaces: GitWorkspaces, source: Path) -> None:
    """A workspace holds the files of the remote's default branch, and says where it began."""
    one = await prepared(workspaces, source)

    assert ("main", git(source, "rev-parse", "main")) == (one.base_branch, one.base_commit)
    assert files_in(one.workspace) == {"README.md": "shop\n", "app.py": "print('hello')\n"}
    assert git(source, "rev-parse", "main^{tree}") == one.tree
    assert workspaces.directory("shop-1-development") / "workspace" == one.workspace
    assert workspaces.directory("shop-1-development").stat().st_mode & 0o777 == 0o700


async def test_prepare_again_answers_what_stands(workspaces: GitWorkspaces, source: Path, tmp_path: Path) -> None:
    """A second prepare, by another process too, changes nothing and answers the same."""
    one = await prepared(workspaces, source)
    write(one.workspace, {"mine.txt": "work"})
    commit(source, {"later.txt": "x"})

    again = await prepared(GitWorkspaces(tmp_path / "home"), source)

    assert one == again
    assert (one.workspace / "mine.txt").read_text() == "work"


async def test_prepare_sees_the_newest_commit(workspaces: GitWorkspaces, source: Path) -> None:
    """The mirror is brought up to date each time; a branch deleted at the remote is no base any more."""
    git(source, "branch", "old")
    await prepared(workspaces, source)
    newest = commit(source, {"new.txt": "x"})
    git(source, "branch", "-D", "old")

    two = await prepared(workspaces, source, "shop-2-development")
    error = await refused(workspaces.prepare("shop-3", str(source), base_branch="old", bases=()))

    assert newest == two.base_commit
    assert error.slug == "branch-not-found"
    assert "main" in str(error)


async def test_git_works_for_the_agent(workspaces: GitWorkspaces, source: Path) -> None:
    """Status, diff against the base, log, commit and stash work as in any clone."""
    one = await prepared(workspaces, source)
    assert git(one.workspace, "status", "--porcelain") == ""
    assert git(one.workspace, "branch", "--show-current") == "cairn/shop-1-development"

    write(one.workspace, {"app.py": "print('bye')\n"})
    git(one.workspace, "commit", "--quiet", "--all", "--message", "by the agent")

    assert git(one.workspace, "diff", "--name-only", "origin/main", "HEAD") == "app.py"
    assert git(one.workspace, "log", "--format=%s").splitlines() == ["by the agent", "first"]
    git(one.workspace, "fsck")


async def test_stash_branches_and_configuration_are_not_shared(workspaces: GitWorkspaces, source: Path) -> None:
    """What one agent stashes, branches or configures does not exist for another one of the same repository."""
    one, two = await prepared(workspaces, source), await prepared(workspaces, source, "shop-2")
    write(one.workspace, {"app.py": "stashed"})

    git(one.workspace, "stash")
    git(one.workspace, "branch", "fix")
    git(one.workspace, "config", "user.name", "One")

    assert git(two.workspace, "stash", "list") == ""
    assert git(two.workspace, "branch", "--format=%(refname:short)") == "cairn/shop-2"
    assert git(two.workspace, "config", "user.name") == "Cairn"


async def test_ten_prepares_of_one_repository_at_once(workspaces: GitWorkspaces, source: Path) -> None:
    """Ten environments that begin together, with no mirror yet, all stand; so do ten processes' worth of locks."""
    others = [GitWorkspaces(workspaces.directory("x").parent.parent) for _ in range(10)]

    made = await asyncio.gather(*(prepared(own, source, f"shop-{n}") for n, own in enumerate(others)))

    assert len({one.workspace for one in made}) == 10
    assert [len(files_in(one.workspace)) for one in made] == [2] * 10
    assert sorted(f"shop-{n}" for n in range(10)) == await workspaces.existing()


async def test_bases_are_merged_onto_the_base_branch(workspaces: GitWorkspaces, source: Path) -> None:
    """Branches and commits that the base lacks are merged; one that it has already is not."""
    git(source, "switch", "--quiet", "--create", "cairn/shop-1")
    one = commit(source, {"one.txt": "1"})
    git(source, "switch", "--quiet", "--create", "two", "main")
    two = commit(source, {"two.txt": "2"})
    git(source, "switch", "--quiet", "main")
    main = commit(source, {"main.txt": "m"})

    made = await workspaces.prepare("shop-3", str(source), base_branch="main", bases=("cairn/shop-1", two, "main"))

    assert main == made.base_commit
    assert {"one.txt", "two.txt", "main.txt"} < set(files_in(made.workspace))
    for ancestor in (one, two, main):
        git(made.workspace, "merge-base", "--is-ancestor", ancestor, "HEAD")
    assert git(made.workspace, "rev-list", "--count", "--merges", "HEAD") == "2"


async def test_a_checkpoint_as_base_counts_as_one_commit(workspaces: GitWorkspaces, source: Path) -> None:
    """The work of another workspace that was not published is merged without its single steps."""
    one = await prepared(workspaces, source)
    for n in range(3):
        write(one.workspace, {f"step{n}.txt": "x"})
        last = await workspaces.checkpoint("shop-1-development", f"step {n}")

    two = await workspaces.prepare("shop-1-review", str(source), base_branch="", bases=(last.commit,))

    assert {"step0.txt", "step1.txt", "step2.txt"} < set(files_in(two.workspace))
    assert git(two.workspace, "rev-list", "--count", "HEAD") == "3"  # first, the squashed work, the merge


async def test_conflicting_bases_are_refused_with_the_files(workspaces: GitWorkspaces, source: Path) -> None:
    """Bases that cannot be merged name the files that stand against it, and leave no workspace."""
    git(source, "switch", "--quiet", "--create", "other")
    commit(source, {"app.py": "other"})
    git(source, "switch", "--quiet", "main")
    commit(source, {"app.py": "main"})

    error = await refused(workspaces.prepare("shop-3", str(source), base_branch="", bases=("other",)))

    assert error.slug == "merge-conflict"
    assert "app.py" in str(error)


async def test_unknown_base_is_refused(workspaces: GitWorkspaces, source: Path) -> None:
    """A base that is neither a branch nor a commit is named in the refusal."""
    for base in ("nowhere", "0" * 40):
        error = await refused(workspaces.prepare("shop-3", str(source), base_branch="", bases=(base,)))
        assert (error.slug, base in str(error)) == ("branch-not-found", True)


async def test_repositories_that_cannot_be_used(workspaces: GitWorkspaces, tmp_path: Path) -> None:
    """A path that is not there, a folder that is no repository and an empty repository each get their own slug."""
    (tmp_path / "folder").mkdir()
    git(tmp_path, "init", "--quiet", "empty")

    for path, slug in (("nowhere", "repository-not-found"), ("folder", "repository-not-found")):
        assert slug == (await refused(prepared(workspaces, tmp_path / path))).slug
    error = await refused(prepared(workspaces, tmp_path / "empty"))
    assert (error.slug, "commit something" in str(error)) == ("repository-empty", True)
    assert (await refused(workspaces.merge("--help", base="a", head="b", message="m"))).slug == "repository-not-found"


async def test_an_unreachable_remote_is_transient(workspaces: GitWorkspaces) -> None:
    """A server that refuses the connection may answer later."""
    with pytest.raises(Transient):
        await workspaces.prepare("shop-1", "http://127.0.0.1:9/shop.git", base_branch="", bases=())


async def test_a_shallow_clone_can_be_a_repository(workspaces: GitWorkspaces, source: Path, tmp_path: Path) -> None:
    """A remote without its older history, as CI systems make them, works; history ends where it ends there."""
    commit(source, {"second.txt": "2"})
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{source}", "shallow")

    one = await prepared(workspaces, tmp_path / "shallow")
    write(one.workspace, {"x.txt": "x"})
    checkpoint = await workspaces.checkpoint("shop-1-development", "x")
    await workspaces.publish(str(tmp_path / "shallow"), checkpoint.commit, branch="cairn/shop-1", message="x")

    assert git(one.workspace, "rev-list", "--count", "HEAD") == "1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_a_repository_of_another_user(workspaces: GitWorkspaces, source: Path) -> None:
    """A mounted repository that belongs to somebody else is read and pushed to all the same."""
    for path in (source, *source.rglob("*")):
        os.chown(path, 4711, 4711, follow_symlinks=False)

    one = await prepared(workspaces, source)
    write(one.workspace, {"x.txt": "x"})
    checkpoint = await workspaces.checkpoint("shop-1-development", "x")
    await workspaces.publish(str(source), checkpoint.commit, branch="cairn/shop-1", message="x")

    assert git(source, "-c", "safe.directory=*", "show", "cairn/shop-1:x.txt") == "x"


@pytest.mark.parametrize("id", ["", "..", "a/b", "a.lock", "-x", "x" * 201])
async def test_ids_cannot_leave_the_folder(workspaces: GitWorkspaces, id: str) -> None:
    """An id that is no plain name is refused before anything is touched."""
    assert (await refused(workspaces.remove(id))).slug == "environment-id-invalid"


# ---- removal and crashes


async def test_remove_leaves_nothing_but_checkpoints(workspaces: GitWorkspaces, source: Path, tmp_path: Path) -> None:
    """Removing takes the folder, read-only parts too, and its lock file; doing it again is harmless."""
    one = await prepared(workspaces, source)
    write(one.workspace, {"deep/er/x.txt": "x"})
    (one.workspace / "deep/er").chmod(0o500)
    (one.workspace / "deep").chmod(0o500)

    await workspaces.remove("shop-1-development")
    await workspaces.remove("shop-1-development")

    assert list((tmp_path / "home/environments").iterdir()) == []
    assert await workspaces.existing() == []


async def test_leftovers_of_a_killed_prepare(workspaces: GitWorkspaces, source: Path) -> None:
    """Half a workspace, lock files and a torn record do not keep prepare from making it right."""
    directory = workspaces.directory("shop-1-development")
    write(directory, {"workspace/half.txt": "x", "workspace/.git/HEAD": "", "checkpoint.index.lock": ""})
    write(directory, {"checkpoint.index": "torn", "workspace.json": '{"repository_url": "'})

    one = await prepared(workspaces, source)

    assert list(files_in(one.workspace)) == ["README.md", "app.py"]


async def test_leftovers_of_a_killed_mirror(workspaces: GitWorkspaces, source: Path, tmp_path: Path) -> None:
    """A half-made mirror is made again; an old lock of a killed fetch is removed, a fresh one is waited for."""
    await prepared(workspaces, source)
    (mirror,) = (tmp_path / "home/repositories").glob("*.git")
    mirror.rename(mirror.with_suffix(".new"))
    (mirror.with_suffix(".new") / "HEAD").unlink()
    await prepared(workspaces, source, "shop-2")
    lock = mirror / "refs/remotes/origin/main.lock"
    lock.touch()
    commit(source, {"new.txt": "x"})

    with pytest.raises(Transient):
        await prepared(workspaces, source, "shop-3")
    os.utime(lock, (0, 0))
    three = await prepared(workspaces, source, "shop-3")

    assert (three.workspace / "new.txt").exists()


async def test_a_fetch_that_another_one_overtakes(
    workspaces: GitWorkspaces, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that outlived its process may bring the same at the same time: it is tried again later."""
    one = await prepared(workspaces, source)
    (mirror,) = (tmp_path / "home/repositories").glob("*.git")
    commit(source, {"new.txt": "x"})
    move = f"git --git-dir={mirror} update-ref refs/remotes/origin/main {one.commit}"
    write(tmp_path, {"hook": f'#!/bin/sh\n{move}\nexec "$@"\n'})
    (tmp_path / "hook").chmod(0o755)
    write(tmp_path, {".gitconfig": f"[uploadpack]\n\tpackObjectsHook = {tmp_path}/hook\n"})
    with monkeypatch.context() as patched:
        patched.setenv("HOME", str(tmp_path))
        with pytest.raises(Transient, match="another git changed it at the same time"):
            await prepared(workspaces, source, "shop-2")

    assert ((await prepared(workspaces, source, "shop-2")).workspace / "new.txt").exists()


async def test_a_lock_left_by_a_killed_checkpoint(workspaces: GitWorkspaces, source: Path) -> None:
    """Lock files of our index and our ref, left behind, are removed; the agent's own is not touched."""
    one = await prepared(workspaces, source)
    directory = workspaces.directory("shop-1-development")
    (mirror,) = directory.parent.with_name("repositories").glob("*.git")
    (mirror / "refs/cairn/shop-1-development/head.lock").touch()
    (directory / "checkpoint.index.lock").touch()
    (one.workspace / ".git/index.lock").touch()
    write(one.workspace, {"x.txt": "x"})

    made = await workspaces.checkpoint("shop-1-development", "x")
    (directory / "checkpoint.index.lock").touch()
    await workspaces.restore("shop-1-development", one.commit)

    assert made.tree != one.tree == await workspaces.tree("shop-1-development")
    assert (one.workspace / ".git/index.lock").exists()


async def test_another_process_is_waited_for(workspaces: GitWorkspaces, source: Path) -> None:
    """While somebody else holds an environment's lock, nothing touches its workspace."""
    await prepared(workspaces, source)
    directory = workspaces.directory("shop-1-development")
    with directory.with_suffix(".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = asyncio.create_task(workspaces.tree("shop-1-development"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
    assert await waiting


async def test_a_cancelled_call_leaves_no_process(workspaces: GitWorkspaces, source: Path) -> None:
    """Whoever stops waiting stops git too, and the next call goes on as if nothing had been."""
    one = await prepared(workspaces, source)
    write(one.workspace, {f"f{n}.txt": str(n) for n in range(200)})
    for delay in (0.0, 0.001, 0.003, 0.006, 0.01):
        call = asyncio.create_task(workspaces.checkpoint("shop-1-development", "x"))
        await asyncio.sleep(delay)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    made = await workspaces.checkpoint("shop-1-development", "x")

    assert len(git(one.workspace, "ls-tree", "-r", "--name-only", made.tree).splitlines()) == 202
