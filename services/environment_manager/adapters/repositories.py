"""Repositories: one bare mirror per remote, which every workspace of it borrows objects from.

What lies in a mirror: ``refs/remotes/origin/*``, the remote's branches as last fetched; ``refs/cairn/<environment>/*``,
the checkpoints; ``refs/cairn-pushed/<branch>/<commit>``, what was pushed from here, written before the push, so that
a crash never makes us take our own branch for somebody else's. A mirror is made by ``init`` and ``fetch`` with a
refspec, not by ``clone --mirror``, which would prune our refs. It stores no address and no credentials.

Commits are made without a working tree (``merge-tree``, ``commit-tree``) and from what they hold alone where that is
possible, so that a repeat makes the identical commit.

Limits: Git LFS and submodule contents are not fetched.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from events.errors import Permanent
from services.environment_manager.adapters.git import Answer, Git, GitFailed, Place, refusal
from services.environment_manager.adapters.locks import Locks
from services.environment_manager.adapters.remotes import Offer, Remote, branch_path, fetch, offer
from services.environment_manager.ports import Checkpoint, Kept

EVERY_BRANCH = "+refs/heads/*:refs/remotes/origin/*"
PACK_LIMIT_BYTES = 256 * 1024 * 1024
DIFF_LIMIT_BYTES = 4 * 1024 * 1024
# A fetch holds the lock of a ref for milliseconds; one older than this was left behind by a killed one.
STALE_SECONDS = 10.0
SEEN_COMMITS = 10_000

CHECKPOINTS = "refs/cairn/"

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")


def checkpoint_ref(environment_id: str) -> str:
    """The ref of an environment's last checkpoint."""
    return f"{CHECKPOINTS}{environment_id}/head"


class Commit(msgspec.Struct, frozen=True):
    """A commit of the mirror; ``date`` as git wants it given back (``@seconds +0000``)."""

    id: str
    tree: str
    date: str
    message: str


class Change(msgspec.Struct, frozen=True):
    """``patch`` is a unified diff, cut at 4 MiB with a note; the counts hold for all of it."""

    patch: str
    files: int
    added: int
    removed: int


class Repository:
    """One mirror. Methods raise ``Permanent`` and ``Transient`` as ``Workspaces`` says."""

    def __init__(self, folder: Path, remote: Remote, git: Git, locks: Locks, seen: MutableMapping[str, str]) -> None:
        """``seen`` keeps the trees of checkpoints by their commits: what an id stands for never changes."""
        self.remote = remote
        self.mirror = folder / f"{hashlib.sha256(remote.url.encode()).hexdigest()[:16]}.git"
        self._git = git
        self._locks = locks
        self._place = Place(git_dir=self.mirror)
        self._seen = seen

    async def run(
        self,
        *arguments: str,
        stdin: bytes = b"",
        date: str = "",
        accept: Collection[int] = (0,),
        limit_bytes: int | None = None,
    ) -> Answer:
        """Run git on the mirror; what it makes is dated ``date``, now where that is empty."""
        variables = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date} if date else {}

        async def once() -> Answer:
            return await self._git.run(
                *arguments,
                place=self._place,
                stdin=stdin,
                variables=variables,
                accept=accept,
                limit_bytes=limit_bytes,
            )

        return await _freed(once, f"git {arguments[0]} failed in the mirror of {self.remote.url}")

    # ---- bringing the mirror up to date

    async def ensure(self) -> None:
        """Make the mirror where it is not there; a half-made one never carries its name."""
        if self.mirror.is_dir():
            return
        self.mirror.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with self._lock() as descriptor:
            if self.mirror.is_dir():
                return
            half_made = self.mirror.with_suffix(".new")
            await asyncio.to_thread(shutil.rmtree, half_made, ignore_errors=True)
            try:
                await self._git.run("init", "--quiet", "--bare", "--template=", str(half_made), keep_open=(descriptor,))
            except GitFailed as error:
                raise refusal(error, f"the mirror {self.mirror} cannot be made") from error
            half_made.rename(self.mirror)

    def _lock(self) -> AbstractAsyncContextManager[int]:
        return self._locks.hold(self.mirror.with_suffix(".lock"))

    async def refresh(self) -> Offer:
        """See what the remote has, and fetch it where the mirror's branches are not as there.

        The answer's commits are all in the mirror. Raises ``Permanent`` (``repository-empty``) too.
        """
        offered = await offer(self._git, self.remote)
        if not offered.heads:
            message = f"{self.remote.url} has no commits yet: commit something to it first"
            raise Permanent(message, slug="repository-empty")
        await self.ensure()
        if await self._branches() == offered.heads:
            return offered
        async with self._lock():
            if (heads := await self._branches()) != offered.heads:  # another may have fetched while we waited
                await self._fetch(EVERY_BRANCH)
                heads = await self._branches()
        return Offer(offered.default, heads)

    async def _branches(self) -> dict[str, str]:
        answer = await self.run("for-each-ref", "--format=%(objectname) %(refname:lstrip=3)", "refs/remotes/origin/")
        lines = answer.stdout.decode(errors="replace").splitlines()
        return {name: commit for commit, _, name in (line.partition(" ") for line in lines)}

    async def _fetch(self, refspec: str) -> None:
        await _freed(
            lambda: fetch(self._git, self.remote, self.mirror, refspec),
            f"the repository {self.remote.url} cannot be fetched",
        )

    # ---- finding commits

    async def commit(self, name: str) -> Commit | None:
        """What ``name`` (a commit's id or a full ref) stands for in the mirror."""
        try:
            answer = await self._git.run("log", "-1", "--format=%H%n%T%n%ct%n%B", name, "--", place=self._place)
        except GitFailed:
            return None
        id, tree, seconds, message = answer.stdout.decode(errors="replace").split("\n", 3)
        return Commit(id, tree, f"@{seconds} +0000", message)

    async def head(self, environment_id: str) -> Checkpoint | None:
        """An environment's last checkpoint: without a process where this one has seen it before."""
        ref = checkpoint_ref(environment_id)
        try:
            id = (self.mirror / ref).read_text().strip()
        except OSError:  # none yet, or somebody packed the refs
            id = ref
        if (tree := self._seen.get(id)) is not None:
            return Checkpoint(id, tree)
        found = await self.commit(ref)
        return None if found is None else self._remember(found.id, found.tree)

    def _remember(self, commit: str, tree: str) -> Checkpoint:
        if len(self._seen) >= SEEN_COMMITS:
            self._seen.clear()
        self._seen[commit] = tree
        return Checkpoint(commit, tree)

    async def resolve(self, name: str, offered: Offer) -> str:
        """The commit that a branch of the remote, a branch pushed from here or a commit's id names.

        Raises ``Permanent`` (``branch-not-found``).
        """
        if name in offered.heads:
            return offered.heads[name]
        if pushed := await self.pushed(name):
            return pushed[0]
        if _COMMIT.match(name):
            if found := await self.commit(name):
                return found.id
            with suppress(Permanent):  # the remote does not have it or does not give it
                async with self._lock():
                    await self._fetch(name)  # No ref: nothing prunes here, and the checkpoints hold on to it.
                return name
        message = f"{name!r} is neither a branch nor a commit of {self.remote.url} (its branches: {offered.names})"
        raise Permanent(message, slug="branch-not-found")

    async def pushed(self, branch: str) -> list[str]:
        """The commits that were pushed from here as ``branch``, the newest first."""
        folder = f"refs/cairn-pushed/{branch_path(branch)}/"
        answer = await self.run("for-each-ref", "--sort=-committerdate", "--format=%(objectname)", folder)
        return answer.text.split()

    async def remember_pushed(self, branch: str, commit: str) -> None:
        await self.run("update-ref", f"refs/cairn-pushed/{branch_path(branch)}/{commit}", commit)

    async def contains(self, commit: str, ancestor: str) -> bool:
        return (await self.run("merge-base", "--is-ancestor", ancestor, commit, accept=(0, 1))).code == 0

    async def brought_in(self, head: str, base: str) -> str:
        """The merge on the way to ``base`` that brought in ``head``; ``head`` itself where there was none."""
        answer = await self.run("rev-list", "--first-parent", "--ancestry-path", "--merges", f"{head}..{base}")
        merges = answer.text.split()
        return merges[-1] if merges else head

    # ---- making commits

    async def checkpoint(self, environment_id: str, tree: str, parent: str, message: str, lock: int) -> Checkpoint:
        """Record ``tree`` as the environment's next checkpoint. The caller holds the environment's ``lock``."""
        id = await self.make(tree, (parent,), message)
        await self._set_head(environment_id, [f"update {checkpoint_ref(environment_id)} {id}"], lock)
        return self._remember(id, tree)

    async def move_head(self, environment_id: str, commit: str, lock: int) -> None:
        """Make any ``commit`` the environment's last checkpoint; the one that was it gets a ref by its own id."""
        ref = checkpoint_ref(environment_id)
        last = await self.head(environment_id)
        changes = [f"update {ref} {commit}"]
        if last is not None and last.commit != commit:
            changes.append(f"update {ref.removesuffix('head')}{last.commit} {last.commit}")
        await self._set_head(environment_id, changes, lock)

    async def _set_head(self, environment_id: str, changes: Sequence[str], lock: int) -> None:
        lines = "".join(f"{line}\n" for line in changes).encode()
        await _freed(
            lambda: self._git.run("update-ref", "--stdin", place=self._place, stdin=lines, keep_open=(lock,)),
            f"the checkpoint of {environment_id} cannot be recorded",
            stale_seconds=0.0,  # git inherits the environment's lock: what is there now was left behind
        )

    async def make(self, tree: str, parents: Sequence[str], message: str, *, date: str = "") -> str:
        """A new commit; with a ``date`` the same arguments make the same commit."""
        options = [option for parent in parents for option in ("-p", parent)]
        return (await self.run("commit-tree", tree, *options, stdin=message.encode() + b"\n", date=date)).text

    async def merge(self, ours: str, theirs: str, message: str, *, names: str, date: str = "") -> str:
        """A merge commit of two commits. Raises ``Permanent`` (``merge-conflict``) naming the files."""
        arguments = ("merge-tree", "--write-tree", "--name-only", "--no-messages")
        answer = await self.run(*arguments, ours, theirs, accept=(0, 1))
        if answer.code == 1:
            files = ", ".join(sorted(set(answer.text.splitlines()[1:])))
            conflict = f"{names} conflict in {files}"
            raise Permanent(conflict, slug="merge-conflict")
        return await self.make(answer.text, (ours, theirs), message, date=date)

    # ---- showing what it holds

    async def write_files(self, tree: str, directory: Path, *, index: Path) -> None:
        """Write the files of a tree into an empty folder; ``index`` is a file to make for it."""
        place = Place(git_dir=self.mirror, work_tree=directory, index=index)
        try:
            await self._git.run("read-tree", "--reset", "-u", tree, place=place)
        except GitFailed as error:
            raise refusal(error, f"{tree} cannot be written to {directory}") from error

    async def export(self, environment_id: str) -> bytes:
        """Every checkpoint of the environment with what they stand upon, as a git bundle. Raises ``Permanent``."""
        folder = checkpoint_ref(environment_id).removesuffix("head")
        if not self.mirror.is_dir() or not (await self.run("for-each-ref", "--count=1", folder)).text:
            message = f"no checkpoint of {environment_id} is on this host"
            raise Permanent(message, slug="checkpoint-missing")
        return (await self.run("bundle", "create", "--quiet", "-", f"--glob={folder}*")).stdout

    async def pack(self, commits: Sequence[str], without: Sequence[str]) -> bytes:
        """Commits and what they stand upon, without what comes with the commits ``without``."""
        lines = "".join(f"{line}\n" for line in (*commits, *(f"^{other}" for other in without)))
        arguments = ("pack-objects", "--quiet", "--revs", "--thin", "--stdout", "--delta-base-offset", "--threads=1")
        answer = await self.run(*arguments, stdin=lines.encode(), limit_bytes=PACK_LIMIT_BYTES)
        if answer.truncated:
            message = f"{commits[0]} is more than {PACK_LIMIT_BYTES} bytes away from what is stored elsewhere"
            raise Permanent(message, slug="bundle-too-large")
        return answer.stdout

    async def unpack(self, pack: bytes) -> None:
        """Take in the objects of a pack that may lean on what is here already."""
        await self.run("index-pack", "--stdin", "--fix-thin", stdin=pack)

    async def fetch_commit(self, commit: str) -> None:
        """Have a commit of the remote here. Raises ``Permanent`` where it is nowhere there any more."""
        if self.mirror.is_dir() and await self.commit(commit) is not None:
            return
        await self.resolve(commit, await self.refresh())

    async def diff(self, older: str, newer: str) -> Change:
        options = ("--no-color", "--no-ext-diff", "--no-textconv", "--numstat", "--patch", "--find-renames")
        answer = await self.run("diff", *options, older, newer, "--", limit_bytes=DIFF_LIMIT_BYTES)
        counts, _, patch = answer.stdout.decode(errors="replace").partition("\n\n")
        rows = [line.split("\t") for line in counts.splitlines() if line.count("\t") >= 2]
        added, removed = (sum(int(row[column]) for row in rows if row[column].isdigit()) for column in (0, 1))
        if answer.truncated:
            kept = patch[: patch.rfind("\n") + 1]
            patch = f"{kept}[the diff is longer than {DIFF_LIMIT_BYTES} bytes; the rest is left out]\n"
        return Change(patch, len(rows), added, removed)


async def kept_in(git: Git, mirror: Path) -> list[Kept]:
    """What keeps the checkpoints in a mirror, by environment."""
    answer = await _freed(
        lambda: git.run("for-each-ref", "--format=%(objectname) %(refname)", CHECKPOINTS, place=Place(git_dir=mirror)),
        f"the checkpoints in {mirror} cannot be listed",
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for commit, _, ref in (line.partition(" ") for line in answer.text.splitlines()):
        found.setdefault(ref.removeprefix(CHECKPOINTS).partition("/")[0], []).append((ref, commit))
    return [Kept(environment_id, mirror.name, tuple(refs)) for environment_id, refs in found.items()]


async def forget(git: Git, mirror: Path, kept: Kept, lock: int) -> None:
    """Remove these refs if every one of them is as it was. The caller holds the environment's ``lock``."""
    lines = "".join(f"delete {ref} {commit}\n" for ref, commit in kept.refs).encode()
    await _freed(
        lambda: git.run("update-ref", "--stdin", place=Place(git_dir=mirror), stdin=lines, keep_open=(lock,)),
        f"the checkpoints of {kept.environment_id} cannot be removed",
    )


T = TypeVar("T")


async def _freed(work: Callable[[], Awaitable[T]], failed: str, *, stale_seconds: float = STALE_SECONDS) -> T:
    """What ``work`` answers; where a lock that a killed git left stood in the way, without it."""
    try:
        try:
            return await work()
        except GitFailed as error:
            if not _removed_stale(error.lock_file, stale_seconds):
                raise
            return await work()
    except GitFailed as error:
        raise refusal(error, failed) from error


def _removed_stale(lock_file: Path | None, stale_seconds: float) -> bool:
    """Remove a lock that a killed git left in a mirror."""
    try:
        if lock_file is None or time.time() - lock_file.stat().st_mtime < stale_seconds:
            return False
        lock_file.unlink()
    except FileNotFoundError:
        pass
    return True
