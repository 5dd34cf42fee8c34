"""Checkpoints over real git: what is recorded of a workspace, and how it comes back."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from services.environment_manager.adapters.checkpoints import add_one_by_one, snapshot
from services.environment_manager.adapters.git import Git, Place
from services.environment_manager.adapters.workspaces import GitWorkspaces
from tests.integration.git_examples import commit, files_in, git, prepared, refused, repository, write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return repository(tmp_path / "source")


@pytest.fixture
def workspaces(tmp_path: Path) -> GitWorkspaces:
    return GitWorkspaces(tmp_path / "home")


# ---- checkpoints


async def test_a_checkpoint_leaves_git_of_the_workspace_alone(workspaces: GitWorkspaces, source: Path) -> None:
    """Staged, changed, new and deleted files are recorded; branches, HEAD and the staged set stay as they are."""
    one = await prepared(workspaces, source)
    write(
        one.workspace,
        {"staged.txt": "s", "app.py": "changed", "dir/new.txt": "n", ".gitignore": "*.log\n", "a.log": "-"},
    )
    git(one.workspace, "add", "staged.txt")
    (one.workspace / "README.md").unlink()
    before = git(one.workspace, "status", "--porcelain", "--branch"), git(one.workspace, "for-each-ref")

    made = await workspaces.checkpoint("shop-1-development", "after c1")

    assert before == (git(one.workspace, "status", "--porcelain", "--branch"), git(one.workspace, "for-each-ref"))
    names = git(one.workspace, "ls-tree", "-r", "--name-only", made.tree).splitlines()
    assert names == [".gitignore", "app.py", "dir/new.txt", "staged.txt"]
    assert one.commit == git(one.workspace, "rev-parse", f"{made.commit}^")


async def test_an_unchanged_workspace_keeps_its_checkpoint(workspaces: GitWorkspaces, source: Path) -> None:
    """Where nothing changed, the last checkpoint is the answer; the first one is what prepare made."""
    one = await prepared(workspaces, source)

    first = await workspaces.checkpoint("shop-1-development", "nothing")
    write(one.workspace, {"x.txt": "x"})
    second = await workspaces.checkpoint("shop-1-development", "x")

    assert (one.commit, one.tree) == (first.commit, first.tree)
    assert second == await workspaces.checkpoint("shop-1-development", "again")
    assert second.tree == await workspaces.tree("shop-1-development")


async def test_tree_does_not_record(workspaces: GitWorkspaces, source: Path) -> None:
    """The present tree can be asked for without a checkpoint coming of it."""
    one = await prepared(workspaces, source)
    write(one.workspace, {"x.txt": "x"})

    tree = await workspaces.tree("shop-1-development")
    made = await workspaces.checkpoint("shop-1-development", "x")

    assert tree == made.tree != one.tree
    assert one.commit == git(one.workspace, "rev-parse", f"{made.commit}^")


async def test_modes_links_and_strange_names_are_kept(workspaces: GitWorkspaces, source: Path) -> None:
    """Executable files, symbolic links and names with spaces, quotes and newlines come back as they were."""
    one = await prepared(workspaces, source)
    write(one.workspace, {"run.sh": "#!/bin/sh\n", "sp ace 'q\" ü.txt": "a", "new\nline": "b", "-dash": "c"})
    (one.workspace / "run.sh").chmod(0o755)
    (one.workspace / "link").symlink_to("/nowhere")
    os.mkfifo(one.workspace / "pipe")
    made = await workspaces.checkpoint("shop-1-development", "x")

    two = await prepared(workspaces, source, "shop-2", restore=made.commit)

    assert {"run.sh", "sp ace 'q\" ü.txt", "new\nline", "-dash"} < set(files_in(two.workspace))
    assert (two.workspace / "run.sh").stat().st_mode & 0o100
    assert str((two.workspace / "link").readlink()) == "/nowhere"


async def test_repositories_inside_the_workspace_are_recorded_as_files(workspaces: GitWorkspaces, source: Path) -> None:
    """What an agent clones or initialises inside its workspace is kept file by file, with or without commits."""
    one = await prepared(workspaces, source)
    nested = repository(one.workspace / "nested", {"lib.py": "x", "deep/er.py": "y"})
    repository(nested / "inner", {"in.txt": "i"})
    (one.workspace / "unborn").mkdir()
    git(one.workspace / "unborn", "init", "--quiet")
    write(one.workspace, {"unborn/u.txt": "u"})

    first = await workspaces.checkpoint("shop-1-development", "nested")
    write(one.workspace, {"nested/lib.py": "changed", "nested/more.py": "m"})
    second = await workspaces.checkpoint("shop-1-development", "nested changed")

    names = {"README.md", "app.py", "nested/lib.py", "nested/deep/er.py", "nested/inner/in.txt", "unborn/u.txt"}
    assert names == set(git(one.workspace, "ls-tree", "-r", "--name-only", first.tree).splitlines())
    assert names | {"nested/more.py"} == set(
        git(one.workspace, "ls-tree", "-r", "--name-only", second.tree).splitlines()
    )
    await workspaces.restore("shop-1-development", first.commit)
    assert (nested / "lib.py").read_text() == "x"
    assert not (nested / "more.py").exists()


async def test_the_agents_git_directory_is_not_trusted(workspaces: GitWorkspaces, source: Path, tmp_path: Path) -> None:
    """Hooks, filters and a broken .git of the workspace neither run in our name nor keep us from recording."""
    one = await prepared(workspaces, source)
    git(one.workspace, "config", "core.fsmonitor", f"touch {tmp_path}/ran #")
    git(one.workspace, "config", "filter.evil.clean", f"touch {tmp_path}/ran #")
    write(one.workspace, {".gitattributes": "* filter=evil\n", "x.txt": "x"})
    await workspaces.checkpoint("shop-1-development", "x")
    assert not (tmp_path / "ran").exists()

    shutil.rmtree(one.workspace / ".git")
    write(one.workspace, {".git": "gitdir: /nowhere\n", "y.txt": "y"})
    made = await workspaces.checkpoint("shop-1-development", "y")
    await workspaces.restore("shop-1-development", made.commit)

    assert git(one.workspace, "branch", "--show-current") == "cairn/shop-1-development"
    assert (one.workspace / "y.txt").read_text() == "y"


async def test_what_cannot_be_recorded_is_named(workspaces: GitWorkspaces, source: Path) -> None:
    """A known file that became a pipe is named in the refusal; nothing hangs on it."""
    one = await prepared(workspaces, source)
    (one.workspace / "app.py").unlink()
    os.mkfifo(one.workspace / "app.py")

    error = await refused(workspaces.checkpoint("shop-1-development", "x"))

    assert (error.slug, "app.py" in str(error)) == ("workspace-unreadable", True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["secret.txt", "secret"])
async def test_what_may_not_be_read_is_named(workspaces: GitWorkspaces, source: Path, name: str) -> None:
    """A file or a folder that we may not read is named in the refusal, never silently left out."""
    one = await prepared(workspaces, source)
    write(one.workspace, {"secret.txt": "x", "secret/inside.txt": "x"})
    (one.workspace / name).chmod(0)

    error = await refused(workspaces.checkpoint("shop-1-development", "x"))
    (one.workspace / name).chmod(0o700)

    assert (error.slug, name in str(error)) == ("workspace-unreadable", True)


async def test_files_that_come_and_go_do_not_hinder(workspaces: GitWorkspaces, source: Path) -> None:
    """A process that makes and removes files all the while does not make checkpoints fail. There are many other files,
    so that git is still reading folders when a file is gone again that it has seen."""
    one = await prepared(workspaces, source)
    write(one.workspace, {f"many/{n % 200}/{n}.txt": "x" for n in range(4000)})
    script = "while :; do for n in 1 2 3 4 5 6 7 8 9; do echo $n > t$n; done; rm -f t*; done"
    busy = await asyncio.create_subprocess_exec("sh", "-c", script, cwd=one.workspace)
    try:
        for n in range(10):
            write(one.workspace, {"x.txt": str(n)})
            made = await workspaces.checkpoint("shop-1-development", "x")
            assert str(n) == git(one.workspace, "show", f"{made.commit}:x.txt")
    finally:
        busy.kill()
        await busy.wait()


async def test_file_by_file_records_what_git_records(source: Path, tmp_path: Path) -> None:
    """Whatever became of files, folders, links and repositories inside: looked at one by one, the same is recorded."""
    program, one = Git(), tmp_path / "one"
    git(tmp_path, "init", "--quiet", "--bare", "mirror.git")
    quick, slow = (Place(git_dir=tmp_path / "mirror.git", work_tree=one, index=tmp_path / f"{n}.index") for n in "ab")

    async def recorded() -> tuple[str, str]:
        with (tmp_path / "lock").open("w") as lock:
            tree = await snapshot(program, quick, lock.fileno())
            await add_one_by_one(program, slow, lock.fileno())
        return tree, (await program.run("write-tree", place=slow)).text

    write(one, {"file": "1", "gone": "1", "folder/a": "1", "folder/b": "1", "linked/inside": "1", "run.sh": "1"})
    write(one, {"a b\n": "1", ".gitignore": "*.log\n", "ignored.log": "1"})
    before = await recorded()
    for name in ("gone", "file"):
        (one / name).unlink()
    shutil.rmtree(one / "folder")
    (one / "linked").rename(one / "elsewhere")
    (one / "linked").symlink_to("elsewhere")
    (one / "run.sh").chmod(0o755)
    not_text = os.fsdecode(b"not-\xff-text")
    write(one, {"file/now": "a folder", "folder": "a file", "new/deep/er": "2", not_text: "2"})
    for name in ("inner", f"in {not_text}"):
        repository(one / name)
    git(one, "init", "--quiet", "empty")
    after = await recorded()

    assert before[0] == before[1]
    assert after[0] == after[1] != before[0]
    assert "160000 commit" not in git(tmp_path / "mirror.git", "ls-tree", "-r", after[0])


async def test_a_workspace_that_is_gone(workspaces: GitWorkspaces, source: Path) -> None:
    """Without its folder nothing can be recorded; prepare makes it again, restore brings its files back."""
    one = await prepared(workspaces, source)
    write(one.workspace, {"x.txt": "x"})
    made = await workspaces.checkpoint("shop-1-development", "x")
    shutil.rmtree(one.workspace)

    assert (await refused(workspaces.checkpoint("shop-1-development", "y"))).slug == "workspace-broken"
    assert (await refused(workspaces.checkpoint("never-made", "y"))).slug == "workspace-broken"
    await workspaces.restore("shop-1-development", made.commit)

    assert (one.workspace / "x.txt").read_text() == "x"
    assert made == await workspaces.checkpoint("shop-1-development", "again")


# ---- restore


async def test_restore_shows_exactly_the_checkpoint(workspaces: GitWorkspaces, source: Path) -> None:
    """Files come back, later ones go, folders give way to files; ignored files stay, the branch too."""
    one = await prepared(workspaces, source)
    write(one.workspace, {".gitignore": "*.log\n", "thing": "a file"})
    then = await workspaces.checkpoint("shop-1-development", "then")
    shown = files_in(one.workspace)
    (one.workspace / "thing").unlink()
    write(one.workspace, {"thing/inside.txt": "x", "later.txt": "x", "app.py": "changed", "keep.log": "log"})
    git(one.workspace, "commit", "--quiet", "--allow-empty", "--message", "agent")
    head = git(one.workspace, "rev-parse", "HEAD")
    later = await workspaces.checkpoint("shop-1-development", "later")
    write(one.workspace, {"unrecorded.txt": "x"})

    await workspaces.restore("shop-1-development", then.commit)

    assert shown | {"keep.log": "log"} == files_in(one.workspace)
    assert head == git(one.workspace, "rev-parse", "HEAD")
    assert then == await workspaces.checkpoint("shop-1-development", "nothing new")
    await workspaces.restore("shop-1-development", later.commit)
    assert (one.workspace / "thing/inside.txt").read_text() == "x"


async def test_every_checkpoint_stays_reachable(workspaces: GitWorkspaces, source: Path, tmp_path: Path) -> None:
    """After going back, after removal and after making the environment again, older checkpoints are still there,
    even past a thorough garbage collection."""
    one = await prepared(workspaces, source)
    made = []
    for n in range(3):
        write(one.workspace, {"x.txt": str(n)})
        made.append(await workspaces.checkpoint("shop-1-development", "x"))
        await workspaces.restore("shop-1-development", one.commit)
    await workspaces.remove("shop-1-development")
    commit(source, {"new.txt": "x"})
    await prepared(workspaces, source)

    (mirror,) = (tmp_path / "home/repositories").glob("*.git")
    git(mirror, "gc", "--quiet", "--prune=now")

    for n, checkpoint in enumerate(made):
        assert str(n) == git(mirror, "show", f"{checkpoint.commit}:x.txt")


async def test_restore_of_an_unknown_commit_is_refused(workspaces: GitWorkspaces, source: Path) -> None:
    """A commit that is not here is refused and the workspace stays as it is."""
    one = await prepared(workspaces, source)
    write(one.workspace, {"x.txt": "x"})

    for attempt in (
        workspaces.restore("shop-1-development", "0" * 40),
        prepared(workspaces, source, "shop-2", restore="0" * 40),
        workspaces.diff(str(source), one.commit, "nonsense"),
    ):
        assert (await refused(attempt)).slug == "checkpoint-missing"
    assert (one.workspace / "x.txt").exists()


async def test_a_fork_begins_at_a_checkpoint_and_its_base(workspaces: GitWorkspaces, source: Path) -> None:
    """An environment made from a checkpoint shows it, and keeps the base it began with, though main went on."""
    one = await prepared(workspaces, source)
    write(one.workspace, {"x.txt": "x"})
    made = await workspaces.checkpoint("shop-1-development", "x")
    commit(source, {"elsewhere.txt": "e"})

    fork = await prepared(workspaces, source, "shop-1-fork", restore=made.commit)

    assert (one.base_branch, one.base_commit, made.tree) == (fork.base_branch, fork.base_commit, fork.tree)
    assert files_in(one.workspace) == files_in(fork.workspace)
    assert git(fork.workspace, "status", "--porcelain") == "?? x.txt"


async def test_diff_and_checkout_of_checkpoints(workspaces: GitWorkspaces, source: Path, tmp_path: Path) -> None:
    """Two checkpoints can be compared, and one written to another folder, without the workspace."""
    one = await prepared(workspaces, source)
    write(one.workspace, {"app.py": "print('bye')\n"})
    made = await workspaces.checkpoint("shop-1-development", "x")
    await workspaces.remove("shop-1-development")

    patch = await workspaces.diff(str(source), one.commit, made.commit)
    await workspaces.checkout(str(source), made.commit, tmp_path / "out")

    assert "-print('hello')\n+print('bye')\n" in patch
    assert await workspaces.diff(str(source), made.commit, made.commit) == ""
    assert files_in(tmp_path / "out") == {"README.md": "shop\n", "app.py": "print('bye')\n"}
    assert (
        await refused(workspaces.checkout(str(source), made.commit, tmp_path / "out"))
    ).slug == "directory-not-empty"
    assert list(tmp_path.glob(".out*")) == []


# ---- what is left of an environment that nobody knows


def refs_of(workspaces: GitWorkspaces, source: Path, id: str) -> list[str]:
    listed = git(workspaces.mirror(str(source)), "for-each-ref", "--format=%(refname)", f"refs/cairn/{id}/")
    return listed.splitlines()


async def test_refs_of_an_environment_are_forgotten_and_nothing_else(workspaces: GitWorkspaces, source: Path) -> None:
    """All of them, packed ones too; only where it has no directory, and not what was made since they were listed."""
    one, two = "shop-1-development", "shop-1-development-2"
    for id in (one, two):
        workspace = (await prepared(workspaces, source, id)).workspace
        write(workspace, {"a.txt": id})
        first = await workspaces.checkpoint(id, "first")
        write(workspace, {"a.txt": f"{id} again"})
        await workspaces.checkpoint(id, "second")
        await workspaces.restore(id, first.commit)
        git(workspaces.mirror(str(source)), "pack-refs", "--all")
    kept = {item.environment_id: item for item in await workspaces.kept()}
    assert set(kept) == {one, two}
    assert len(kept[one].refs) == len(refs_of(workspaces, source, one)) == 2

    assert not await workspaces.forget(kept[one])
    await workspaces.remove(one)
    assert await workspaces.forget(kept[one])

    assert refs_of(workspaces, source, one) == []
    assert len(refs_of(workspaces, source, two)) == 2
    assert await workspaces.vanished() == []
    write((await prepared(workspaces, source, two)).workspace, {"a.txt": "later"})
    last = await workspaces.checkpoint(two, "third")
    await workspaces.remove(two)
    error = await refused(workspaces.forget(kept[two]))
    assert error.slug == "git-refused"
    assert (await workspaces.diff(str(source), last.commit, last.commit)) == ""
    assert len(refs_of(workspaces, source, two)) == 2


async def test_commit_that_is_fetched_by_its_id_leaves_no_ref(workspaces: GitWorkspaces, source: Path) -> None:
    """The checkpoints that are made on it hold on to it."""
    hidden = commit(source, {"hidden.txt": "x"})
    git(source, "reset", "--hard", "--quiet", "HEAD~1")
    git(source, "config", "uploadpack.allowAnySHA1InWant", "true")
    one = await workspaces.prepare("shop-1-development", str(source), base_branch="", bases=(hidden,))
    assert (one.workspace / "hidden.txt").read_text() == "x"
    mirror = workspaces.mirror(str(source))
    assert {ref.split("/")[1] for ref in git(mirror, "for-each-ref", "--format=%(refname)").splitlines()} == {
        "cairn",
        "remotes",
    }
    git(mirror, "merge-base", "--is-ancestor", hidden, one.commit)
