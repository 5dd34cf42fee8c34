"""Environments of other hosts: a command for one goes to where it lives; where that host is gone, it moves here.

It is taken over from its bundles: the last bundled checkpoint becomes the workspace here, and one event, appended at
the revision that all of this was read at, makes this its host. From then on the old host, should it come back, can
append nothing for it, and removes what it has. Before that event nothing has changed: a crash leaves a workspace that
the log does not know here, which is removed.
"""

from __future__ import annotations

import structlog

from events import subjects
from events.envelope import CommandEnvelope
from events.environment import Environment, EnvironmentMoved, EnvironmentPreparationFailed
from events.errors import Permanent, Transient
from infra.entities import Cause
from infra.hosts import Hosts
from services.environment_manager.deciders import environment as decider
from services.environment_manager.executor import Executor, Plumbing
from services.environment_manager.furnishing import furnish
from services.environment_manager.reports import Reports

logger = structlog.get_logger()


class Moving:
    def __init__(self, plumbing: Plumbing, executor: Executor, hosts: Hosts) -> None:
        self._plumbing = plumbing
        self._executor = executor
        self._hosts = hosts
        self._reports = Reports(plumbing.log, plumbing.sender, plumbing.content)

    async def is_here(self, envelope: CommandEnvelope) -> bool:
        """Whether a command is to be handled here; else it has been sent on. Raises ``Transient``.

        An environment whose host is gone is here afterwards. Where it cannot be, the log says why, and so does the
        answer to a check.
        """
        id = envelope.entity_id
        kept = self._plumbing.environments.peek(id)
        if kept is not None and decider.stands(kept[0]) and kept[0].host == self._plumbing.host:
            return True
        state, _ = await self._plumbing.environments.load(id)
        if not self._lives_elsewhere(state):
            return True
        bundled = state.prepared is not None and state.prepared.bundled
        if not bundled or not await self._hosts.settled_gone(state.host):
            logger.info("sent on", environment=id, to=state.host, command=type(envelope.command).__name__)
            await self._plumbing.sender.forward(subjects.ENVIRONMENT_MANAGER, state.host, envelope)
            return False
        return await self._take_over(envelope)

    def _lives_elsewhere(self, state: Environment) -> bool:
        return decider.stands(state) and state.host != self._plumbing.host

    async def _take_over(self, envelope: CommandEnvelope) -> bool:
        id, cause = envelope.entity_id, Cause.of(envelope, "-moved")
        with self._executor.rooms.preparing(id) as room:
            async with room.moving:
                state, _ = await self._plumbing.environments.load(id)
                if not self._lives_elsewhere(state):
                    return True
                try:
                    await self._move(id, state, cause)
                except Permanent as error:
                    await self._refuse(envelope, state, error, cause)
                    return False
                return True

    async def _move(self, id: str, state: Environment, cause: Cause) -> None:
        plumbing = self._plumbing
        assert state.prepared is not None
        # It may have lived here before: what is left of that time is not what the log tells.
        await plumbing.processes.close(id)
        await plumbing.workspaces.remove(id)
        await self._executor.bundles.bring(id, state, state.bundled)
        prepared = await plumbing.workspaces.prepare(
            id,
            state.prepared.repository_url,
            base_branch=state.prepared.base_branch,
            bases=(),
            restore=state.bundled,
        )
        before = state.prepared
        await furnish(plumbing.sandboxes, id, before.isolation, before.sandbox, before.repository_url)
        await plumbing.processes.ready(id)
        moved = EnvironmentMoved(
            host=plumbing.host,
            from_host=state.host,
            checkpoint=prepared.commit,
            tree=prepared.tree,
            workspace=str(prepared.workspace),
        )
        decision = await plumbing.environments.decide(
            id, self._executor.own(cause), lambda present: decider.move(present, moved, restored=state.bundled)
        )
        if decision.state.host != plumbing.host:
            message = f"environment {id} changed while it was being moved from {state.host}"
            raise Transient(message)
        logger.warning("moved", environment=id, from_host=state.host, lost_calls=decision.state.lost_calls)
        self._executor.bundles.note(id)

    async def _refuse(self, envelope: CommandEnvelope, state: Environment, error: Permanent, cause: Cause) -> None:
        assert state.prepared is not None
        failed = EnvironmentPreparationFailed(
            task_id=state.prepared.task_id,
            cause=error.slug,
            detail=f"its host {state.host} is gone, and it cannot be taken over: {error}",
            retryable=True,
        )
        decision = await self._plumbing.environments.decide(
            envelope.entity_id,
            self._executor.own(cause),
            lambda present: decider.fail_move(present, failed, state.host),
        )
        if decision.events:
            await self._reports.no_workspace(envelope.command, failed.detail, cause)
