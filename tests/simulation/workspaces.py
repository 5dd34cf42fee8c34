"""Workspaces on the hosts of the world: an in-memory twin of git, for one life of an environment-manager."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Collection, Sequence
from typing import Any

from events.errors import Permanent
from services.environment_manager.ports import Checkpoint, Comparison, Kept, Prepared, Published
from tests.simulation.network import Process
from tests.simulation.world import BASE_BRANCH, REPOSITORY, Files, Host, Place, Workspace, World, tree_of


class HostWorkspaces:
    """``services.environment_manager.ports.Workspaces`` for one life of an environment-manager."""

    def __init__(self, world: World, host: Host, process: Process) -> None:
        self._world = world
        self._host = host
        self._process = process

    async def prepare(
        self, environment_id: str, repository_url: str, *, base_branch: str, bases: Sequence[str], restore: str = ""
    ) -> Prepared:
        async def effect() -> Prepared:
            workspace = self._host.workspaces.get(environment_id)
            if workspace is None:
                workspace = self._new(bases, restore)
                self._host.workspaces[environment_id] = workspace
                self._host.refs[environment_id] = workspace.first
            return Prepared(
                workspace=self.directory(environment_id) / "workspace",
                base_branch=BASE_BRANCH,
                base_commit=workspace.base_commit,
                commit=workspace.first,
                tree=tree_of(self._world.commits[workspace.first]),
            )

        return await self._call(("prepare", environment_id), effect)

    def _new(self, bases: Sequence[str], restore: str) -> Workspace:
        base = self._world.branches[BASE_BRANCH]
        files = dict(self._world.commits[base])
        for name in bases:
            files |= self._files_of(self._world.branches.get(name, name))
        if restore:
            files = dict(self._files_of(restore))
        first = restore or self._commit(files, base)
        return Workspace(base_commit=base, first=first, last=first, files=files)

    async def checkpoint(self, environment_id: str, message: str) -> Checkpoint:
        async def effect() -> Checkpoint:
            workspace = self._workspace(environment_id)
            workspace.changed_by_hand = False
            if tree_of(workspace.files) != tree_of(self._world.commits[workspace.last]):
                workspace.last = self._commit(workspace.files, workspace.last)
            return Checkpoint(workspace.last, tree_of(workspace.files))

        return await self._call(("checkpoint", environment_id, message), effect)

    async def tree(self, environment_id: str) -> str:
        async def effect() -> str:
            return tree_of(self._workspace(environment_id).files)

        return await self._call(("tree", environment_id), effect)

    async def compare(self, environment_id: str, checkpoint: Checkpoint) -> Comparison:
        async def effect() -> Comparison:
            workspace = self._workspace(environment_id)
            return Comparison(tree=tree_of(workspace.files), head=workspace.last)

        return await self._call(("compare", environment_id), effect)

    async def kept(self) -> list[Kept]:
        async def effect() -> list[Kept]:
            return [Kept(id, REPOSITORY, ((id, first),)) for id, first in sorted(self._host.refs.items())]

        return await self._call(("kept",), effect)

    async def forget(self, kept: Kept) -> bool:
        async def effect() -> bool:
            id, first = kept.refs[0]
            if self._host.refs.get(id) != first or id in self._host.workspaces:
                return False
            del self._host.refs[id]
            return True

        return await self._call(("forget", kept.environment_id), effect)

    def stands(self, environment_id: str) -> bool:
        return environment_id in self._host.workspaces

    async def vanished(self) -> list[str]:
        """Nobody removes a directory by hand here."""
        await self._process.awake()
        return []

    async def bundle(self, repository_url: str, commits: Sequence[str], known: Sequence[str]) -> bytes:
        async def effect() -> bytes:
            left_out = {it for commit in known for it in self._world.history(commit)}
            wanted = {it for commit in commits for it in self._world.history(commit)} - left_out
            return " ".join(sorted(wanted)).encode()

        return await self._call(("bundle", *commits), effect)

    async def unbundle(
        self, environment_id: str, repository_url: str, commit: str, base_commit: str, packs: AsyncIterable[bytes]
    ) -> None:
        if commit in self._host.commits:
            return
        self._host.commits.add(base_commit)
        async for pack in packs:
            self._host.commits |= set(pack.decode().split())
        await self._process.awake()
        self._files_of(commit)

    async def restore(self, environment_id: str, commit: str) -> None:
        """In two steps: between them the workspace is neither the old nor the new one."""

        async def empty() -> None:
            self._workspace(environment_id).files = {}

        async def fill() -> None:
            workspace = self._workspace(environment_id)
            workspace.files = dict(self._files_of(commit))
            workspace.last = commit

        await self._call(("empty", environment_id), empty)
        await self._call(("restore", environment_id, commit), fill)

    async def publish(
        self, repository_url: str, commit: str, *, branch: str, message: str, earlier: Collection[str] = ()
    ) -> Published:
        async def effect() -> Published:
            self._files_of(commit)
            self._world.branches[branch] = commit
            return Published(
                commit=commit,
                base_branch=BASE_BRANCH,
                base_commit=self._world.branches[BASE_BRANCH],
                remote=repository_url,
                diff="",
                files_changed=1,
                lines_added=1,
                lines_removed=0,
            )

        return await self._call(("publish", branch, commit), effect)

    async def remove(self, environment_id: str) -> None:
        async def effect() -> None:
            self._host.workspaces.pop(environment_id, None)
            self._host.programs.pop(environment_id, None)

        await self._call(("remove", environment_id), effect)

    async def existing(self) -> list[str]:
        async def effect() -> list[str]:
            return sorted({*self._host.workspaces, *self._host.programs})

        return await self._call(("existing",), effect)

    def directory(self, environment_id: str) -> Place:
        return Place(self._host, environment_id)

    def _workspace(self, environment_id: str) -> Workspace:
        workspace = self._host.workspaces.get(environment_id)
        if workspace is None:
            message = f"environment {environment_id} has no workspace"
            raise Permanent(message, slug="environment-missing")
        return workspace

    def _files_of(self, commit: str) -> Files:
        """What this host has, or can fetch from the remote."""
        fetched = {it for head in self._world.branches.values() for it in self._world.history(head)}
        if commit not in self._host.commits | fetched:
            message = f"there is no {commit} on {self._host.name}"
            raise Permanent(message, slug="checkpoint-missing" if commit in self._world.commits else "branch-not-found")
        return self._world.commits[commit]

    def _commit(self, files: Files, parent: str) -> str:
        commit = self._world.commit(files, parent)
        self._host.commits.add(commit)
        return commit

    async def _call(self, what: tuple[Any, ...], effect: Callable[[], Any]) -> Any:
        return await self._process.call(what, effect, certain=True)
