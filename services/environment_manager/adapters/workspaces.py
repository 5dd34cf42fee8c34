"""Workspaces over git. The port says what each method does; here is how, and what lies where.

::

    <home>/repositories/<hash>.git             one bare mirror per remote, and its lock beside it
    <home>/environments/<id>/workspace         what the agent sees, a repository of its own (``working_trees``)
    <home>/environments/<id>/checkpoint.index  our index of it, kept warm (``checkpoints``)
    <home>/environments/<id>/workspace.json    written last: with it the workspace stands
    <home>/environments/<id>.lock              held during everything that reads or writes the workspace

``refs/cairn/<id>/head`` in the mirror is the last checkpoint, its parents are those before it. Where it goes anywhere
but forward, what it left gets a ref by its own id: no checkpoint is ever lost. Nothing that changes is kept in memory,
so every method can be called again after a crash at any point, by another process too.
"""

from __future__ import annotations

import asyncio
import errno
import re
import shutil
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec

from events.errors import Permanent, Transient
from services.environment_manager.adapters.checkpoints import run, show, snapshot
from services.environment_manager.adapters.git import DISK_DELAY_SECONDS, Git, Place
from services.environment_manager.adapters.locks import Locks
from services.environment_manager.adapters.remotes import BranchMoved, Credentials, Offer, offer, push, remote_of
from services.environment_manager.adapters.repositories import Commit, Repository, forget, kept_in
from services.environment_manager.adapters.working_trees import (
    Origin,
    Record,
    make_git_directory,
    mend,
    read_record,
    remove_tree,
    write_record,
)
from services.environment_manager.ports import Checkpoint, Comparison, Kept, Prepared, Published

# Against others that change the same branch of the remote, one after the other.
ATTEMPTS = 10
CHANGING_DELAY_SECONDS = 1.0

_ENVIRONMENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}\Z")


class GitWorkspaces:
    """``Workspaces`` in folders under ``home``. ``credentials`` gives a token for a remote's URL, or None. ``restored``
    is called when files of a workspace were written anew."""

    def __init__(
        self,
        home: Path,
        *,
        git: Git | None = None,
        credentials: Credentials | None = None,
        restored: Callable[[str], None] = lambda environment_id: None,
    ) -> None:
        self.restored = restored
        self._repositories = home.absolute() / "repositories"
        self._environments = home.absolute() / "environments"
        self._git = git or Git()
        self._credentials = credentials
        self._locks = Locks()
        self._seen: dict[str, str] = {}

    def directory(self, environment_id: str) -> Path:
        if not _ENVIRONMENT_ID.match(environment_id):
            message = f"{environment_id!r} cannot name an environment: use up to 200 letters, digits, '-' and '_'"
            raise Permanent(message, slug="environment-id-invalid")
        return self._environments / environment_id

    async def existing(self) -> list[str]:
        if not self._environments.is_dir():
            return []
        return sorted(path.name for path in self._environments.iterdir() if path.is_dir())

    # ---- a workspace's life

    async def prepare(
        self, environment_id: str, repository_url: str, *, base_branch: str, bases: Sequence[str], restore: str = ""
    ) -> Prepared:
        directory = self.directory(environment_id)
        repository = self._repository(repository_url)
        async with self._hold(environment_id) as lock:
            with _disk(f"the workspace of {environment_id} cannot be made"):
                directory.mkdir(mode=0o700, exist_ok=True)
                record = read_record(directory)
                if record is None or record.mirror != repository.mirror.name or not (directory / "workspace").is_dir():
                    if restore:
                        origin, first = await self._origin_restored(repository, restore)
                    else:
                        origin, first = await self._origin(repository, base_branch, bases)
                    record = await self._make(environment_id, repository, origin, first, lock)
        return Prepared(
            workspace=directory / "workspace",
            base_branch=record.origin.base_branch,
            base_commit=record.origin.base_commit,
            commit=record.commit,
            tree=record.tree,
        )

    async def checkpoint(self, environment_id: str, message: str) -> Checkpoint:
        async with self._hold(environment_id) as lock:
            record, repository = self._standing(environment_id)
            tree = await snapshot(self._git, self._place(environment_id, repository), lock)
            last = await repository.head(environment_id)
            if last is None or last.tree != tree:
                parent = last.commit if last is not None else record.origin.start
                text = record.origin.signed(message, environment_id)
                last = await repository.checkpoint(environment_id, tree, parent, text, lock)
            return last

    async def tree(self, environment_id: str) -> str:
        async with self._hold(environment_id) as lock:
            _, repository = self._standing(environment_id)
            return await snapshot(self._git, self._place(environment_id, repository), lock)

    async def compare(self, environment_id: str, checkpoint: Checkpoint) -> Comparison:
        async with self._hold(environment_id) as lock:
            _, repository = self._standing(environment_id)
            tree = await snapshot(self._git, self._place(environment_id, repository), lock)
            head = await repository.head(environment_id)
            if head is None or head.commit != checkpoint.commit:
                return Comparison(tree=tree, head=head.commit if head is not None else "")
            if tree == checkpoint.tree:
                return Comparison(tree=tree, head=head.commit)
            return Comparison(tree=tree, head=head.commit, diff=(await repository.diff(head.commit, tree)).patch)

    def stands(self, environment_id: str) -> bool:
        directory = self.directory(environment_id)
        return (directory / "workspace.json").is_file() and (directory / "workspace").is_dir()

    async def vanished(self) -> list[str]:
        """Whose lock file was left: only ``remove`` takes it away."""
        if not self._environments.is_dir():
            return []
        return sorted(path.stem for path in self._environments.glob("*.lock") if not path.with_suffix("").is_dir())

    async def restore(self, environment_id: str, commit: str) -> None:
        directory = self.directory(environment_id)
        async with self._hold(environment_id) as lock:
            record, repository = self._standing(environment_id)
            wanted = await self._required(repository, commit)
            record = msgspec.structs.replace(record, origin=Origin.of(wanted.message) or record.origin)
            place = self._place(environment_id, repository)
            with _disk(f"the workspace of {environment_id} cannot be restored"):
                await asyncio.to_thread(mend, directory, repository.mirror, f"cairn/{environment_id}", record.origin)
                await snapshot(self._git, place, lock)
                await show(self._git, place, wanted.tree, lock)
                await repository.move_head(environment_id, wanted.id, lock)
                write_record(directory, record)
                await asyncio.to_thread(self.restored, environment_id)

    async def remove(self, environment_id: str) -> None:
        directory = self.directory(environment_id)
        if not directory.exists():
            self._lock_path(environment_id).unlink(missing_ok=True)
            return
        async with self._hold(environment_id):
            with _disk(f"the workspace of {environment_id} cannot be removed"):
                (directory / "workspace.json").unlink(missing_ok=True)
                await asyncio.to_thread(remove_tree, directory)
                self._lock_path(environment_id).unlink(missing_ok=True)

    async def kept(self) -> list[Kept]:
        mirrors = sorted(self._repositories.glob("*.git"))
        found = [kept for mirror in mirrors for kept in await kept_in(self._git, mirror)]
        return [kept for kept in found if _ENVIRONMENT_ID.match(kept.environment_id)]

    async def forget(self, kept: Kept) -> bool:
        async with self._hold(kept.environment_id) as lock:
            if self.directory(kept.environment_id).exists():
                return False
            await forget(self._git, self._repositories / kept.repository, kept, lock)
            self._lock_path(kept.environment_id).unlink(missing_ok=True)
            return True

    # ---- the remote

    async def publish(
        self, repository_url: str, commit: str, *, branch: str, message: str, earlier: Collection[str] = ()
    ) -> Published:
        repository = self._repository(repository_url)
        checkpoint = await self._required(repository, commit)
        origin = Origin.of(checkpoint.message)
        if origin is None:
            missing = f"{commit} is no checkpoint, so it is not known what it began with"
            raise Permanent(missing, slug="checkpoint-missing")
        base = await self._required(repository, origin.base_commit)
        if checkpoint.tree == base.tree:
            nothing = f"nothing differs from {origin.base_branch}: there is nothing to publish"
            raise Permanent(nothing, slug="nothing-to-publish")
        published = await self._squashed(repository, checkpoint, origin, message)
        await self._push(repository, published, branch, earlier)
        change = await repository.diff(origin.base_commit, published)
        return Published(
            commit=published,
            base_branch=origin.base_branch,
            base_commit=origin.base_commit,
            remote=repository.remote.url,
            diff=change.patch,
            files_changed=change.files,
            lines_added=change.added,
            lines_removed=change.removed,
        )

    async def merge(self, repository_url: str, *, base: str, head: str, message: str, expected: str = "") -> str:
        repository, changing = self._repository(repository_url), BranchMoved()
        for _ in range(ATTEMPTS):
            offered = await repository.refresh()
            ours = _branch(offered, base, repository)
            theirs = expected or await repository.resolve(head, offered)
            if await repository.commit(theirs) is not None and await repository.contains(ours, theirs):
                return await repository.brought_in(theirs, ours)
            if offered.heads.get(head, theirs) != theirs:
                moved = (
                    f"{head} was changed in {repository.remote.url}: it stands at {offered.heads[head]}, not {expected}"
                )
                raise Permanent(moved, slug="head-moved")
            theirs = await repository.resolve(theirs, offered)
            commit = await repository.merge(ours, theirs, message, names=f"{head} and {base}")
            try:
                await push(
                    *(self._git, repository.remote, repository.mirror, commit, base),
                    replacing=None,
                    into_work_tree=True,
                )
            except BranchMoved as error:
                changing = error
            else:
                return commit
        raise Transient(str(changing), delay_seconds=CHANGING_DELAY_SECONDS) from changing

    async def diff(self, repository_url: str, older: str, newer: str) -> str:
        repository = self._repository(repository_url)
        commits = [await self._required(repository, commit) for commit in (older, newer)]
        return (await repository.diff(commits[0].id, commits[1].id)).patch

    async def checkout(self, repository_url: str, commit: str, directory: Path) -> None:
        repository = self._repository(repository_url)
        wanted = await self._required(repository, commit)
        with _disk(f"{commit} cannot be written to {directory}"):
            if directory.is_dir() and any(directory.iterdir()):
                message = f"{directory} is not empty"
                raise Permanent(message, slug="directory-not-empty")
            partial = directory.with_name(f".{directory.name}.partial")
            await asyncio.to_thread(remove_tree, partial)
            files = partial / "files"
            files.mkdir(parents=True)
            await repository.write_files(wanted.tree, files, index=partial / "index")
            files.rename(directory)
            await asyncio.to_thread(remove_tree, partial)

    async def export(self, repository_url: str, environment_id: str) -> bytes:
        return await self._repository(repository_url).export(environment_id)

    # ---- checkpoints for another host

    async def bundle(self, repository_url: str, commits: Sequence[str], known: Sequence[str]) -> bytes:
        return await self._repository(repository_url).pack(commits, known)

    async def unbundle(
        self, environment_id: str, repository_url: str, commit: str, base_commit: str, packs: AsyncIterable[bytes]
    ) -> None:
        repository = self._repository(repository_url)
        async with self._hold(environment_id) as lock:
            if repository.mirror.is_dir() and await repository.commit(commit) is not None:
                return
            await repository.fetch_commit(base_commit)
            async for pack in packs:
                await repository.unpack(pack)
            await self._required(repository, commit)
            await repository.move_head(environment_id, commit, lock)

    def mirror(self, repository_url: str) -> Path:
        """The bare repository that workspaces of the remote borrow their objects from."""
        return self._repository(repository_url).mirror

    # ---- inside

    def _repository(self, url: str) -> Repository:
        return Repository(self._repositories, remote_of(url, self._credentials), self._git, self._locks, self._seen)

    def _lock_path(self, environment_id: str) -> Path:
        return self._environments / f"{environment_id}.lock"

    @asynccontextmanager
    async def _hold(self, environment_id: str) -> AsyncIterator[int]:
        self.directory(environment_id)
        self._environments.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with self._locks.hold(self._lock_path(environment_id)) as lock:
            yield lock

    def _place(self, environment_id: str, repository: Repository) -> Place:
        directory = self.directory(environment_id)
        return Place(git_dir=repository.mirror, work_tree=directory / "workspace", index=directory / "checkpoint.index")

    def _standing(self, environment_id: str) -> tuple[Record, Repository]:
        record = read_record(self.directory(environment_id))
        if record is None:
            message = f"the workspace of {environment_id} does not stand: prepare it first"
            raise Permanent(message, slug="workspace-broken")
        return record, self._repository(record.repository_url)

    async def _required(self, repository: Repository, commit: str) -> Commit:
        found = await repository.commit(commit) if repository.mirror.is_dir() else None
        if found is None:
            message = f"{commit} is not on this host: its checkpoints lie where its environment lived"
            raise Permanent(message, slug="checkpoint-missing")
        return found

    async def _origin(self, repository: Repository, base_branch: str, bases: Sequence[str]) -> tuple[Origin, Commit]:
        """Where a new workspace begins: the base branch as it is now, with ``bases`` merged onto it."""
        offered = await repository.refresh()
        branch = base_branch or offered.default
        start = base = await self._required(repository, _branch(offered, branch, repository))
        for name in bases:
            other = await self._required(repository, await repository.resolve(name, offered))
            if (origin := Origin.of(other.message)) is not None:
                # Another workspace's checkpoint: its work counts, not its steps.
                message = other.message.partition("\n\nCairn-Environment: ")[0]
                other = await self._required(repository, await self._squashed(repository, other, origin, message))
            if not await repository.contains(start.id, other.id):
                merged = await repository.merge(
                    *(start.id, other.id, f"Merge {name} into {branch}"),
                    names=f"{name} and {branch}",
                    date=max(start.date, other.date),
                )
                start = await self._required(repository, merged)
        return Origin(branch, base.id, start.id), start

    async def _origin_restored(self, repository: Repository, commit: str) -> tuple[Origin, Commit]:
        checkpoint = await self._required(repository, commit)
        origin = Origin.of(checkpoint.message)
        if origin is None:
            message = f"{commit} is no checkpoint: it cannot be restored"
            raise Permanent(message, slug="checkpoint-missing")
        return origin, checkpoint

    async def _make(
        self, environment_id: str, repository: Repository, origin: Origin, first: Commit, lock: int
    ) -> Record:
        """Make the workspace show ``first``, whatever a crash left there. The record comes last."""
        directory = self.directory(environment_id)
        place = self._place(environment_id, repository)
        workspace = directory / "workspace"
        (directory / "workspace.json").unlink(missing_ok=True)
        (directory / "checkpoint.index").unlink(missing_ok=True)
        await asyncio.to_thread(remove_tree, workspace)
        workspace.mkdir()
        await show(self._git, place, first.tree, lock)
        index = make_git_directory(workspace, repository.mirror, f"cairn/{environment_id}", origin)
        shutil.copy2(directory / "checkpoint.index", index)
        if first.id != origin.start:
            # A restored checkpoint: for the agent's git it is a change on top of the start.
            await run(self._git, msgspec.structs.replace(place, index=index), lock, "read-tree", origin.start)
        commit = await repository.make(
            first.tree, (first.id,), origin.signed("workspace prepared", environment_id), date=first.date
        )
        await repository.move_head(environment_id, commit, lock)
        record = Record(
            repository_url=repository.remote.url,
            mirror=repository.mirror.name,
            origin=origin,
            commit=commit,
            tree=first.tree,
        )
        write_record(directory, record)
        return record

    async def _squashed(self, repository: Repository, checkpoint: Commit, origin: Origin, message: str) -> str:
        """A checkpoint as one commit on what its workspace began with; the same one however often it is made."""
        start = await self._required(repository, origin.start)
        if checkpoint.tree == start.tree:
            return start.id
        return await repository.make(checkpoint.tree, (start.id,), message, date=checkpoint.date)

    async def _push(self, repository: Repository, commit: str, branch: str, earlier: Collection[str]) -> None:
        """Push, replacing only what was pushed from here before, or from elsewhere as ``earlier`` tells. A push that
        outlived the process that began it may move the branch meanwhile."""
        await repository.remember_pushed(branch, commit)
        replaceable, changing = {*earlier, *await repository.pushed(branch)}, BranchMoved()
        for _ in range(ATTEMPTS):
            current = (await offer(self._git, repository.remote)).heads.get(branch, "")
            if current == commit:
                return
            if current and current not in replaceable:
                where = f"{branch} of {repository.remote.url}"
                message = f"{where} was not pushed from here, or changed since: remove it there first"
                raise Permanent(message, slug="push-refused")
            try:
                await push(self._git, repository.remote, repository.mirror, commit, branch, replacing=current)
            except BranchMoved as error:
                changing = error
            else:
                return
        raise Transient(str(changing), delay_seconds=CHANGING_DELAY_SECONDS) from changing


def _branch(offered: Offer, branch: str, repository: Repository) -> str:
    if branch not in offered.heads:
        message = f"{repository.remote.url} has no branch {branch!r}: name one of its branches ({offered.names})"
        raise Permanent(message, slug="branch-not-found")
    return offered.heads[branch]


@contextmanager
def _disk(failed: str) -> Iterator[None]:
    """What the file system refuses, as what it means."""
    try:
        yield
    except OSError as error:
        message = f"{failed}: {error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE):
            raise Transient(message, delay_seconds=DISK_DELAY_SECONDS) from error
        raise Permanent(message, slug="workspace-broken") from error
