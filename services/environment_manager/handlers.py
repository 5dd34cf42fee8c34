"""Commands for environments: prepare, publish, and the calls, which are begun here and go on by themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from events import names, subjects
from events.envelope import CommandEnvelope, Outcome
from events.environment import (
    ENVIRONMENT,
    BranchPushed,
    BranchRefused,
    Environment,
    EnvironmentPreparationFailed,
    EnvironmentPrepared,
    ExecuteTool,
    InspectEnvironment,
    InterruptCall,
    PrepareEnvironment,
    PublishBranch,
    ReconcileEnvironment,
)
from events.errors import CommandRejected, Permanent, Transient
from events.kernel import replace
from events.task import RecordCheck
from events.task_state import TASK
from infra.entities import Cause
from services.environment_manager.deciders import environment as decider
from services.environment_manager.executor import Executor, Plumbing
from services.environment_manager.furnishing import furnish
from services.environment_manager.inspection import Inspector
from services.environment_manager.moving import Moving
from services.environment_manager.pull_requests import PullRequestHandlers
from services.environment_manager.reconcile import needless, prepare_again

logger = structlog.get_logger()


class Handlers:
    """``remove`` ends and removes an environment: the keeper's, who needs these handlers itself."""

    remove: Callable[[str, str], Awaitable[None]]

    def __init__(
        self, plumbing: Plumbing, executor: Executor, moving: Moving, pull_requests: PullRequestHandlers
    ) -> None:
        self._plumbing = plumbing
        self._executor = executor
        self._moving = moving
        self._pull_requests = pull_requests
        self._inspector = Inspector(plumbing, executor)

    async def handle(self, envelope: CommandEnvelope) -> Outcome | None:
        if await self._moving.is_here(envelope):
            await self._handle(envelope)
        return None

    async def _handle(self, envelope: CommandEnvelope) -> None:
        cause = Cause.of(envelope)
        match envelope.command:
            case PrepareEnvironment() as command:
                await self.prepare(envelope.entity_id, command, cause)
            case InspectEnvironment() as command:
                await self._inspector.inspect(
                    envelope.entity_id,
                    cause,
                    inspection_id=command.inspection_id,
                    session_file=command.session_file,
                )
            case ReconcileEnvironment() as command:
                await self._inspector.reconcile(
                    envelope.entity_id, command.choice, cause, session_file=command.session_file
                )
            case PublishBranch() as command:
                await self._publish(envelope.entity_id, command, cause)
            case ExecuteTool() as command:
                if command.check_stage:
                    await self._prepare_again(envelope.entity_id, cause)
                self._executor.begin(envelope.entity_id, command, cause)
            case InterruptCall() as command:
                await self._executor.interrupt(envelope.entity_id, command)
            case command:
                message = f"{type(command).__name__} is no command for an environment."
                raise CommandRejected(message, slug="unknown-command", status=400)

    async def _prepare_again(self, id: str, cause: Cause) -> None:
        """No run asks for the workspace of a gate: where it was removed, and the task was opened again since, it comes
        back."""
        state, _ = self._plumbing.environments.peek(id) or await self._plumbing.environments.load(id)
        if state.removed:
            await self.prepare(id, prepare_again(state), replace(cause, id=f"{cause.id}-prepared-again"))

    async def prepare(self, id: str, command: PrepareEnvironment, cause: Cause) -> None:
        with self._executor.rooms.preparing(id):
            await self._prepare(id, command, cause)

    async def _prepare(self, id: str, command: PrepareEnvironment, cause: Cause) -> None:
        """Make the workspace and its shim. A workspace that was removed comes back as its last checkpoint shows it; one
        that began from work that is gone is made anew, from what there is now."""
        plumbing = self._plumbing
        state, _ = await plumbing.environments.load(id)
        outdated = not state.begins_from(command.bases)
        if (decider.stands(state) and not outdated) or await self._is_needless(command.task_id):
            return
        if state.removed and await self._is_decided(id, self._executor.own(cause)):
            return  # The command came once more: what it made was removed since, and nobody asked for that again.
        restore, source = ("", "") if outdated else (command.restore, command.restore_source)
        if decider.stands(state):
            anew = ", ".join(commit[:12] for commit in command.bases)
            await self.remove(id, f"its stage begins anew, from {anew}")
            state, _ = await plumbing.environments.load(id)
        elif (state.removed or state.lost) and not outdated:
            restore, source = state.checkpoint, id
        bundles = self._executor.bundles
        try:
            if restore:
                await bundles.bring(source, (await plumbing.environments.load(source))[0], restore)
            for source, commit in zip(command.sources, command.bases, strict=False):
                if source:
                    await bundles.bring(source, (await plumbing.environments.load(source))[0], commit)
            prepared = await plumbing.workspaces.prepare(
                id, command.repository_url, base_branch=command.base_branch, bases=command.bases, restore=restore
            )
            for reference in command.secrets.values():
                plumbing.resolve_secret(reference)
            isolation, image = await furnish(
                plumbing.sandboxes, id, command.isolation, command.sandbox, command.repository_url
            )
            await plumbing.processes.ready(id)
            first = await bundles.first(command.repository_url, prepared)
        except Permanent as error:
            failed = EnvironmentPreparationFailed(
                task_id=command.task_id,
                cause=error.slug,
                detail=str(error),
                # It may lie on another host that has yet to bundle it; an engine is started again.
                retryable=error.slug in ("checkpoint-missing", "engine-missing"),
            )
            await self._executor.append(id, cause, lambda state: decider.fail_preparation(state, failed))
            return
        event = EnvironmentPrepared(
            task_id=command.task_id,
            host=plumbing.host,
            isolation=isolation,
            sandbox=command.sandbox,
            image=image,
            repository_url=command.repository_url,
            base_branch=prepared.base_branch,
            base_commit=prepared.base_commit,
            commit=prepared.commit,
            tree=prepared.tree,
            workspace=str(prepared.workspace),
            secrets=command.secrets,
            bundled=first is not None,
            project=command.project,
            made_by=command.made_by,
            bases=command.bases,
        )
        before = state.prepared
        state = await self._executor.append(
            id, cause, lambda state: decider.prepare(state, event, first) if state.prepared == before else ()
        )
        if not decider.stands(state):
            message = f"environment {id} was made elsewhere and removed again meanwhile"
            raise Transient(message)
        logger.info("prepared", environment=id)

    async def _is_decided(self, id: str, cause: Cause) -> bool:
        return any(record.envelope.id == cause.id for record in await self._plumbing.log.load(ENVIRONMENT.name, id))

    async def _is_needless(self, task_id: str) -> bool:
        """Whether the command came too late: its task has ended. A person's has none."""
        if not task_id:
            return False
        records = await self._plumbing.log.load(TASK.name, task_id)
        return needless(TASK.fold(task_id, [event for record in records for event in record.envelope.events]))

    async def _publish(self, id: str, command: PublishBranch, cause: Cause) -> None:
        """Push, open the pull request, record, report: each step can be repeated without harm."""
        plumbing = self._plumbing
        state, _ = await plumbing.environments.load(id)
        known = state.pushed.get(command.check_id)
        if known is None:
            known = await self._push(id, state, command, cause)
            pushed = known
            await self._executor.append(
                id, replace(cause, id=f"{command.check_id}-pushed"), lambda state: decider.record_push(state, pushed)
            )
        passed = isinstance(known, BranchPushed)
        await plumbing.sender.send(
            subjects.SCHEDULER,
            subjects.ANY,
            "task",
            command.task_id,
            RecordCheck(
                stage=command.stage,
                check_id=command.check_id,
                passed=passed,
                summary=f"Branch {known.branch} is pushed, its pull request open."
                if isinstance(known, BranchPushed)
                else f"Branch {known.branch} could not be published.",
                detail="" if isinstance(known, BranchPushed) else known.detail,
                commit=known.commit if isinstance(known, BranchPushed) else "",
            ),
            command_id=f"{command.check_id}-result",
            cause=cause,
        )

    async def _push(
        self, id: str, state: Environment, command: PublishBranch, cause: Cause
    ) -> BranchPushed | BranchRefused:
        branch = names.branch_name(command.task_id)
        if state.prepared is None:
            return BranchRefused(check_id=command.check_id, branch=branch, detail=f"environment {id} was never made.")
        url = state.prepared.repository_url
        message = f"{command.title}\n\nTask: {command.task_id}\n"
        earlier = {item.commit for item in state.pushed.values() if isinstance(item, BranchPushed)}
        earlier |= await self._pull_requests.heads(command.task_id)
        try:
            await self._executor.bundles.bring(id, state, command.commit)
            published = await self._plumbing.workspaces.publish(
                url, command.commit, branch=branch, message=message, earlier=earlier
            )
        except Permanent as error:
            return BranchRefused(check_id=command.check_id, branch=branch, detail=str(error))
        opening: dict[str, Any] = {
            "task_id": command.task_id,
            "repository_url": url,
            "title": command.title,
            "description": command.description,
            "head": branch,
            "published": published,
        }
        await self._pull_requests.opened(replace(cause, id=f"{command.check_id}-opened"), command.task_id, **opening)
        return BranchPushed(check_id=command.check_id, branch=branch, commit=published.commit, remote=published.remote)
