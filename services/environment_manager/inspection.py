"""Compares workspaces with the log, between two calls, and settles what diverged.

While a call runs nothing can be said: it may be what changes the workspace, and its end takes a checkpoint. So both
happen in the order of the calls, and a workspace that has diverged executes none until it is settled.
"""

from __future__ import annotations

import asyncio

import structlog

from events.environment import (
    ENVIRONMENT,
    CallEnd,
    Environment,
    EnvironmentMoved,
    EnvironmentPrepared,
    WorkspaceDiverged,
)
from events.errors import Permanent
from infra.entities import Cause
from infra.ports import store_content
from services.environment_manager import sessions
from services.environment_manager.deciders import environment as decider
from services.environment_manager.executor import Executor, Plumbing
from services.environment_manager.ports import Checkpoint

logger = structlog.get_logger()

WORKSPACE, CHECKPOINT, SESSION = "workspace", "checkpoint", "session"
NO_SESSION = "no session file"


class Inspector:
    def __init__(self, plumbing: Plumbing, executor: Executor) -> None:
        self._plumbing = plumbing
        self._executor = executor

    async def inspect(self, id: str, cause: Cause, *, inspection_id: str = "", session_file: str = "") -> None:
        """Say what differs, and answer the inspection of that id if there is one. Raises ``Transient``."""
        state, _ = await self._plumbing.environments.load(id)
        if state.running:
            await self._executor.append(id, cause, lambda state: decider.inspect(state, inspection_id, None))
            return
        async with self._executor.rooms.changing(id):
            state, _ = await self._plumbing.environments.load(id)
            found: WorkspaceDiverged | None = None
            if state.stands and not state.running and state.diverged is None:
                if await self._executor.lost(id, state):
                    return
                found = await self._compare(id, state) or await self._compare_session(id, state, session_file)
            await self._executor.append(id, cause, lambda state: decider.inspect(state, inspection_id, found))
        if found is not None:
            logger.warning("diverged", environment=id, kind=found.kind, found=found.found)

    async def reconcile(self, id: str, choice: str, cause: Cause, *, session_file: str = "") -> None:
        """Make the workspace as the log tells it (``restore``), or tell the log what it is (``accept``)."""
        workspaces = self._plumbing.workspaces
        async with self._executor.rooms.changing(id):
            state, _ = await self._plumbing.environments.load(id)
            if state.diverged is None:
                return
            directory, session = workspaces.directory(id), ""
            try:
                if choice == "restore" and state.diverged.kind == SESSION:
                    await asyncio.to_thread(sessions.put_back, directory, session_file, state.sessions[-1])
                elif choice == "restore":
                    await self._restore(id, state)
                elif state.diverged.kind == SESSION:
                    session = await asyncio.to_thread(sessions.keep, directory, session_file) or NO_SESSION
                checkpoint = await workspaces.checkpoint(id, f"divergence settled: {choice}")
            except Permanent as error:
                slug, detail = error.slug, str(error)
                await self._executor.append(
                    id, cause, lambda state: decider.fail_reconciliation(state, choice, slug, detail)
                )
                return
            await self._executor.append(
                id,
                cause,
                lambda state: decider.reconcile(
                    state, choice, checkpoint=checkpoint.commit, tree=checkpoint.tree, session=session
                ),
            )
        self._executor.bundles.note(id)
        logger.info("reconciled", environment=id, choice=choice)

    async def _compare(self, id: str, state: Environment) -> WorkspaceDiverged | None:
        try:
            present = await self._plumbing.workspaces.compare(id, Checkpoint(state.checkpoint, state.tree))
        except Permanent as error:
            return WorkspaceDiverged(kind=CHECKPOINT, expected=state.checkpoint, found=str(error))
        if present.head != state.checkpoint:
            found = present.head or "no checkpoint"
            return WorkspaceDiverged(kind=CHECKPOINT, expected=state.checkpoint, found=found)
        if present.tree == state.tree:
            return None
        diff = await store_content(self._plumbing.content, present.diff)
        return WorkspaceDiverged(kind=WORKSPACE, expected=state.tree, found=present.tree, diff=diff)

    async def _compare_session(self, id: str, state: Environment, session_file: str) -> WorkspaceDiverged | None:
        """Whether the agent's own record is what its last call left; one that the log had before is behind."""
        if not session_file or not state.sessions:
            return None
        directory = self._plumbing.workspaces.directory(id)
        try:
            present = await asyncio.to_thread(sessions.digest_of, directory, session_file) or NO_SESSION
        except Permanent as error:
            return WorkspaceDiverged(kind=SESSION, expected=state.sessions[-1], found=str(error))
        if present == state.sessions[-1]:
            return None
        where = "behind" if present in state.sessions else "ahead of"
        found = present if present == NO_SESSION else f"{present}, which is {where} the log"
        return WorkspaceDiverged(kind=SESSION, expected=state.sessions[-1], found=found)

    async def _restore(self, id: str, state: Environment) -> None:
        """The last checkpoint; where that is gone, the last one before it that is still there."""
        workspaces = self._plumbing.workspaces
        missing: Permanent | None = None
        for commit in dict.fromkeys([state.checkpoint, *await self._earlier(id)]):
            try:
                await workspaces.restore(id, commit)
            except Permanent as error:
                if error.slug != "checkpoint-missing":
                    raise
                missing = error
            else:
                return
        if missing is not None:
            raise missing

    async def _earlier(self, id: str) -> list[str]:
        """The checkpoints that the log names, the last one first."""
        commits = []
        for record in reversed(await self._plumbing.log.load(ENVIRONMENT.name, id)):
            for event in reversed(record.envelope.events):
                if isinstance(event, CallEnd | EnvironmentMoved) and event.checkpoint:
                    commits.append(event.checkpoint)
                elif isinstance(event, EnvironmentPrepared):
                    commits.append(event.commit)
        return commits
