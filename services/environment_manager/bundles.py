"""Keeps the checkpoints of each environment in the content store, so that another host can take it over.

A bundle is a pack of git objects: what a checkpoint has that those bundled before it, and the base branch's commit,
do not have. Shortly after a checkpoint its bundle is stored and then named by an event; checkpoints that come in
between go along in the same one. Until then the changes lie on this host alone: for ``DELAY_SECONDS`` and the time
that storing takes. The first checkpoint is bundled before the environment counts as prepared.

The chain stays short: eight bundles of one weight are replaced by one of eight times that weight (``plan``), so that a
run of 10,000 checkpoints is restored from at most 35 packs, and each object is stored about four times.

Limits: a pack is built in memory; a checkpoint that is more than 256 MB away from what is stored is not bundled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog

from events import subjects
from events.content import Stored
from events.environment import BranchPushed, CheckpointBundled, Environment
from events.errors import CairnError, Fenced, Permanent, Transient
from events.kernel import Event
from infra.entities import Cause, EntityStore
from infra.ports import Clock, ContentStore
from services.environment_manager.deciders import environment as decider
from services.environment_manager.ports import Prepared, Workspaces

logger = structlog.get_logger()

DELAY_SECONDS = 0.4
RETRY_SECONDS = 2.0
STOP_SECONDS = 2.0
FANOUT = 8

Append = Callable[[str, Cause, Callable[[Environment], tuple[Event, ...]]], Awaitable[Environment]]


def plan(bundles: Sequence[CheckpointBundled]) -> tuple[int, int]:
    """How many bundles of the chain stay when the next checkpoint is bundled, and what the new one weighs."""
    kept, weight = len(bundles), 1
    while kept >= FANOUT - 1 and all(item.weight == weight for item in bundles[kept - FANOUT + 1 : kept]):
        kept -= FANOUT - 1
        weight *= FANOUT
    return kept, weight


class Bundles:
    """``enabled`` is false where there is no other host: then nothing is bundled here."""

    def __init__(
        self,
        environments: EntityStore[Environment],
        workspaces: Workspaces,
        content: ContentStore,
        clock: Clock,
        append: Append,
        *,
        enabled: bool,
    ) -> None:
        self.enabled = enabled
        self._environments = environments
        self._workspaces = workspaces
        self._content = content
        self._clock = clock
        self._append = append
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def first(self, repository_url: str, prepared: Prepared) -> CheckpointBundled | None:
        """The bundle that a new environment begins with, stored already. None where it is not to have one."""
        if not self.enabled:
            return None
        return await self._bundle(repository_url, prepared.base_commit, prepared.commit, ())

    def note(self, id: str) -> None:
        """The environment has a checkpoint that may not be bundled yet."""
        if self.enabled and id not in self._tasks and self._behind(id):
            self._tasks[id] = asyncio.create_task(self._soon(id))

    async def bring(self, id: str, state: Environment, commit: str) -> None:
        """Have a checkpoint of the environment on this host, from its bundles where it is not here yet. What was made
        of one to be published is in no bundle: the remote has it.

        Raises ``Permanent`` where they cannot be had, ``Transient`` where trying again may help.
        """
        published = [item.commit for item in state.pushed.values() if isinstance(item, BranchPushed)]
        if state.prepared is not None and state.bundles and commit not in published:
            prepared = state.prepared
            await self._workspaces.unbundle(
                id, prepared.repository_url, commit, prepared.base_commit, self._packs(state.bundles)
            )

    async def finish(self, id: str) -> None:
        """Have the last checkpoint of an environment bundled that is about to be removed, if it can be: should its task
        be opened again, another host may have to go on from there. Raises ``Transient``."""
        try:
            if self.enabled:
                await self._bring_up_to_date(id)
        except Permanent as error:
            logger.error("not bundled: only this host can bring it back", environment=id, error=str(error))

    async def stop(self) -> None:
        """What waits is bundled now, as far as that is done in time; the rest when this host is back."""
        waiting = list(self._tasks)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        last = [asyncio.create_task(self._bring_up_to_date(id)) for id in waiting]
        if last:
            _, late = await asyncio.wait(last, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*last, return_exceptions=True)

    async def _soon(self, id: str) -> None:
        delay_seconds = DELAY_SECONDS
        try:
            while self._behind(id):
                await self._clock.sleep(delay_seconds)
                try:
                    await self._bring_up_to_date(id)
                except Transient as error:
                    logger.warning("bundled later", environment=id, error=str(error))
                    delay_seconds = max(RETRY_SECONDS, error.delay_seconds)
        except Fenced:
            logger.warning("not bundled: it has moved", environment=id)
        except CairnError as error:
            logger.error("not bundled: no other host could take it over as it is", environment=id, error=str(error))
        finally:
            self._tasks.pop(id, None)

    def _behind(self, id: str) -> bool:
        kept = self._environments.peek(id)
        return kept is None or (_wanted(kept[0]) and kept[0].bundled != kept[0].checkpoint)

    async def _bring_up_to_date(self, id: str) -> None:
        kept = self._environments.peek(id)
        state = kept[0] if kept is not None else (await self._environments.load(id))[0]
        if not _wanted(state) or state.bundled == state.checkpoint or state.prepared is None:
            return
        bundle = await self._bundle(
            state.prepared.repository_url, state.prepared.base_commit, state.checkpoint, state.bundles
        )
        cause = Cause(id=f"{id}-bundled-{bundle.checkpoint}", actor=subjects.ENVIRONMENT_MANAGER)
        await self._append(id, cause, lambda state: decider.bundle(state, bundle))

    async def _bundle(
        self, repository_url: str, base_commit: str, checkpoint: str, chain: Sequence[CheckpointBundled]
    ) -> CheckpointBundled:
        kept, weight = plan(chain)
        wanted = [checkpoint, *(item.checkpoint for item in chain[kept:])]
        known = [base_commit, *(item.checkpoint for item in chain[:kept])]
        pack = await self._workspaces.bundle(repository_url, wanted, known)
        return CheckpointBundled(
            checkpoint=checkpoint,
            base=chain[kept - 1].checkpoint if kept else "",
            content=Stored(digest=await self._content.put(pack), size_bytes=len(pack)),
            weight=weight,
        )

    async def _packs(self, bundles: Sequence[CheckpointBundled]) -> AsyncIterator[bytes]:
        for item in bundles:
            pack = await self._content.get(item.content.digest)
            if pack is None:
                message = f"the bundle of checkpoint {item.checkpoint} is not in the content store any more"
                raise Permanent(message, slug="checkpoint-missing")
            yield pack


def _wanted(state: Environment) -> bool:
    return decider.stands(state) and state.prepared is not None and state.prepared.bundled
