"""What a working tree holds, as a tree in the mirror; and making a working tree show such a tree.

Both go through an index of our own that is kept warm beside the workspace: it remembers size and times of every file
as it was last seen, so only what changed is read. The workspace's own ``.git`` (branches, HEAD, staged files, stash)
is neither read nor written: git works with the mirror as its repository and the workspace as its working tree.

Recorded is every file that is not ignored (``.gitignore``). A repository that somebody made inside the workspace is
recorded as the plain files it consists of, without its history: git by itself would keep only a commit's id.

Limits: ignored files, empty directories, sockets, owners and times are not recorded; of a submodule, only its commit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from events.errors import Permanent, Transient
from services.environment_manager.adapters.git import Answer, Git, GitFailed, Place, refusal

ATTEMPTS = 16
# With one command for all, which needs that nothing vanishes under it.
QUICK_ATTEMPTS = 4
BUSY_DELAY_SECONDS = 0.2

_EMBEDDED = re.compile(
    r"^(?:warning: adding embedded git repository: (.+?)|error: '(.+?)/?' does not have a commit checked out)$",
    re.MULTILINE,
)
_BUSY = re.compile(r"No such file or directory|unable to stat|short read|file changed before|unable to index file")
_UNREADABLE = re.compile(
    r"open\(\"(.+?)\"\): Permission denied|could not open directory '(.+?)': Permission denied|"
    r"error: (.+?): can only add regular files"
)
_SEED = ".cairn-seed"


async def snapshot(git: Git, place: Place, lock: int) -> str:
    """The tree of the workspace as it is now, its objects in the mirror. The caller holds the environment's lock.

    Raises ``Permanent`` (``workspace-unreadable``, ``workspace-broken``), and ``Transient`` where files come and go
    too fast.
    """
    failure: GitFailed | None = None
    for attempt in range(ATTEMPTS):
        try:
            if attempt < QUICK_ATTEMPTS:
                said = (await git.run("add", "--all", place=place, keep_open=(lock,))).stderr
            else:
                said = await add_one_by_one(git, place, lock)
            failure = None
        except GitFailed as error:
            failure, said = error, error.stderr
        embedded = [match[1] or match[2] for match in _EMBEDDED.finditer(said)]
        if match := _UNREADABLE.search(said):  # of a folder, git only warns
            name = os.fsencode(match[1] or match[2] or match[3]).decode(errors="replace")
            message = f"{name} in the workspace cannot be read: make it readable, or remove or ignore it"
            raise Permanent(message, slug="workspace-unreadable") from failure
        if embedded:
            await _open_up(git, place, lock, embedded)
        elif failure is None:
            return (await run(git, place, lock, "write-tree")).text
        elif not _removed_lock(failure, place):
            _give_up(failure, place)
    message = f"files in {place.work_tree} changed too often while they were being recorded"
    raise Transient(message, delay_seconds=BUSY_DELAY_SECONDS) from failure


async def add_one_by_one(git: Git, place: Place, lock: int) -> str:
    """As ``git add --all``, where files come and go: that command dies of a file that is gone when it has read all
    folders and comes to it, however many are left. Here each is looked at in the moment in which it is recorded, and
    passed over if it is gone. Returns what git warned of, raises ``GitFailed``."""

    async def asked(*arguments: str, names: Iterable[bytes] = ()) -> Answer:
        return await git.run(*arguments, place=place, stdin=b"".join(name + b"\0" for name in names), keep_open=(lock,))

    listed = await asked("ls-files", "--others", "--exclude-standard", "-z")
    others = listed.stdout.split(b"\0")[:-1]
    if folders := [os.fsdecode(name) for name in others if name.endswith(b"/")]:  # repositories of their own
        await _open_up(git, place, lock, folders)
        others = (await asked("ls-files", "--others", "--exclude-standard", "-z")).stdout.split(b"\0")[:-1]
    fields = (await asked("diff-files", "--name-status", "--no-renames", "-z")).stdout.split(b"\0")[:-1]
    changed = list(zip(fields[::2], fields[1::2], strict=True))
    await asked("update-index", "-z", "--force-remove", "--stdin", names=[name for how, name in changed if how == b"D"])
    there = [name for how, name in changed if how != b"D"] + others
    await asked("update-index", "-z", "--add", "--remove", "--replace", "--stdin", names=there)
    return listed.stderr


def _give_up(failure: GitFailed, place: Place) -> None:
    """Raise what ``failure`` means, unless files only came and went while git looked."""
    if not _BUSY.search(failure.stderr):
        raise refusal(failure, f"the workspace {place.work_tree} cannot be recorded") from failure


async def show(git: Git, place: Place, tree: str, lock: int) -> None:
    """Make the workspace show ``tree``, whose index knows what the workspace holds. Others go, ignored ones stay."""
    await run(git, place, lock, "read-tree", "--reset", "-u", tree)


async def run(git: Git, place: Place, lock: int, *arguments: str, stdin: bytes = b"") -> Answer:
    """Run git on the workspace, past a lock file that a killed one left. Under the environment's lock, which git
    inherits: whoever holds it knows that no other git is at work on our index."""
    failed = f"git {arguments[0]} failed in {place.work_tree}"
    try:
        try:
            return await git.run(*arguments, place=place, stdin=stdin, keep_open=(lock,))
        except GitFailed as error:
            if not _removed_lock(error, place):
                raise
            return await git.run(*arguments, place=place, stdin=stdin, keep_open=(lock,))
    except GitFailed as error:
        raise refusal(error, failed) from error


async def _open_up(git: Git, place: Place, lock: int, folders: list[str]) -> None:
    """Make git look into repositories inside the workspace: where the index holds a file of a folder, ``git add``
    takes the folder for what it is. The file does not exist, so the same ``add`` drops it again."""
    empty = (await run(git, place, lock, "hash-object", "-w", "--stdin", stdin=b"")).text
    entries = []
    for folder in folders:
        name = folder.rstrip("/")
        entries += [f"0 {'0' * len(empty)}\t{name}", f"100644 {empty}\t{name}/{_SEED}"]
    lines = "".join(f"{entry}\0" for entry in entries)
    await run(git, place, lock, "update-index", "-z", "--index-info", stdin=os.fsencode(lines))


def _removed_lock(error: GitFailed, place: Place) -> bool:
    """Remove the lock file of our index that stood in the way, and nothing else."""
    if place.index is None or error.lock_file != place.index.with_name(f"{place.index.name}.lock"):
        return False
    error.lock_file.unlink(missing_ok=True)
    return True
