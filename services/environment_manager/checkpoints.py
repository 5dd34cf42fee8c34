"""Answers what is asked about the checkpoints on this host: a diff, a workspace as it was, all of them as a bundle.

Nothing is decided here and nothing changes. What was asked for goes into the content store, and the outcome names its
digest; the same question has the same answer, so it is kept once. Checkpoints stay when their environment is removed.
Those of a host that is gone are brought here first, where they were bundled (``bundles``).

Limits: an answer is built in memory; files keep their contents and whether they are executable, not their times.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import tarfile
import tempfile
from pathlib import Path

from events.checkpoints import BundleCheckpoints, CompareCheckpoints, PackWorkspace
from events.envelope import CommandEnvelope, Outcome
from events.environment import ENVIRONMENT, Environment
from events.errors import CommandRejected, NotFound, Permanent
from events.kernel import Command
from infra.entities import EntityStore
from infra.ports import ContentStore
from services.environment_manager.bundles import Bundles
from services.environment_manager.ports import Workspaces

COMPRESSION_LEVEL = 1


class CheckpointHandlers:
    def __init__(
        self, environments: EntityStore[Environment], workspaces: Workspaces, bundles: Bundles, content: ContentStore
    ) -> None:
        self._environments = environments
        self._workspaces = workspaces
        self._bundles = bundles
        self._content = content

    async def handle(self, envelope: CommandEnvelope) -> Outcome:
        """Raises ``CommandRejected`` where the checkpoints are not here; whoever asked gets it as the outcome."""
        state, _ = await self._environments.load(envelope.entity_id)
        if state.prepared is None:
            message = f"environment {envelope.entity_id!r} was never prepared: it has no checkpoints."
            raise NotFound(message)
        try:
            for commit in _commits(envelope.command, state):
                await self._bundles.bring(state.id, state, commit)
            data = await self._answer(envelope, state.prepared.repository_url)
        except Permanent as error:
            raise CommandRejected(str(error), slug=error.slug) from error
        digest = await self._content.put(data)
        return Outcome(accepted=True, entity=ENVIRONMENT.name, entity_id=envelope.entity_id, content=digest)

    async def _answer(self, envelope: CommandEnvelope, url: str) -> bytes:
        match envelope.command:
            case CompareCheckpoints(older=older, newer=newer):
                return (await self._workspaces.diff(url, older, newer)).encode()
            case PackWorkspace(commit=commit):
                with tempfile.TemporaryDirectory(prefix="cairn-pack-") as scratch:
                    directory = Path(scratch) / "workspace"
                    await self._workspaces.checkout(url, commit, directory)
                    return await asyncio.to_thread(_packed, directory)
            case BundleCheckpoints():
                return await self._workspaces.export(url, envelope.entity_id)
            case command:
                message = f"{type(command).__name__} is no question about checkpoints."
                raise CommandRejected(message, slug="unknown-command", status=400)


def _commits(command: Command, state: Environment) -> tuple[str, ...]:
    """The checkpoints that the answer needs."""
    match command:
        case CompareCheckpoints(older=older, newer=newer):
            return (older, newer)
        case PackWorkspace(commit=commit):
            return (commit,)
        case _:
            return (state.bundled,)


def _packed(directory: Path) -> bytes:
    """The folder as a compressed tar archive, the same bytes whenever and by whomever it is made."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(directory.rglob("*")):
            archive.add(path, arcname=str(path.relative_to(directory)), recursive=False, filter=_anonymous)
    return gzip.compress(data.getvalue(), COMPRESSION_LEVEL, mtime=0)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member
