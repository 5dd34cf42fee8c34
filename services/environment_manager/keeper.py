"""Keeps the host and the log in agreement: at start, when a task ends, and every minute.

What the comparison is, is pure (``reconcile``); here is what it looks at and how its answers are carried out.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from events.envelope import Recorded
from events.environment import ENVIRONMENT, Environment, PrepareEnvironment
from events.errors import CairnError
from events.kernel import Event
from events.run import RUN, Run
from events.task import CheckRequested, RunRequested, TaskCancelled, TaskCompleted
from events.task_state import TASK, Task
from infra.entities import Cause
from infra.ports import EventLog, Following
from services.environment_manager import reconcile
from services.environment_manager.deciders import environment as decider
from services.environment_manager.executor import Executor, Plumbing
from services.environment_manager.inspection import Inspector
from services.environment_manager.ports import Installations, Kept
from services.environment_manager.systems import ComposedSystems

logger = structlog.get_logger()

INTERVAL_SECONDS = 60.0
RETRY_SECONDS = 5.0


PrepareAgain = Callable[[str, PrepareEnvironment, Cause], Awaitable[None]]


class Keeper:
    """``prepare`` makes a workspace that is lost again."""

    def __init__(
        self,
        log: EventLog,
        plumbing: Plumbing,
        executor: Executor,
        prepare: PrepareAgain,
        systems: ComposedSystems | None = None,
        installations: Installations | None = None,
    ) -> None:
        self._systems = systems
        self._installations = installations
        self._log = log
        self._plumbing = plumbing
        self._executor = executor
        self._prepare = prepare
        self._inspector = Inspector(plumbing, executor)
        self._removals: set[asyncio.Task[object]] = set()
        self._agrees = True
        self._explained: set[str] = set()
        executor.displaced = self._displaced

    async def start(self) -> Following:
        """Compare everything once; from then on a task that ends takes its environments with it."""
        after = await self._log.last_sequence()
        self._agrees = await self._keep_all()
        return await self._log.follow(self._deliver, after=after, entities=(TASK.name,))

    async def run(self) -> None:
        while True:
            agrees = await self._keep_checkpoints() and self._agrees
            await self._plumbing.clock.sleep(INTERVAL_SECONDS if agrees else RETRY_SECONDS)
            self._agrees = await self._keep_all()

    async def _keep_all(self) -> bool:
        """One that cannot be dealt with keeps nobody from the others: its turn comes again soon. False where there
        was one."""
        workspaces = self._plumbing.workspaces
        ids = {*await workspaces.existing(), *await workspaces.vanished()}
        if self._systems is not None:
            ids |= await self._systems.leftover()
        swept = await self._sweep()
        return all([swept, *[await self._keep_one(id) for id in sorted(ids)]])

    async def _sweep(self) -> bool:
        """What is in the engine and belongs to no environment; False where the engine did not let it be looked for."""
        try:
            if self._plumbing.sandboxes is not None:
                for name in await self._plumbing.sandboxes.sweep(self._plumbing.workspaces.existing):
                    logger.warning("orphan removed", container=name, reason="no environment has it")
            if self._installations is not None:
                for name in await self._installations.keep():
                    logger.warning("orphan removed", name=name, reason="its installation is gone for good")
        except CairnError as error:
            logger.warning("not swept", error=str(error))
            return False
        return True

    async def _keep(self, id: str) -> None:
        environment, _ = await self._plumbing.environments.load(id)
        if (environment.stands or environment.lost) and environment.host != self._plumbing.host:
            await self._leave(id, environment)
            return
        busy = self._executor.rooms.busy(id)
        if not environment.stands and busy:
            return  # It is being prepared at this moment.
        task_id = environment.prepared.task_id if environment.prepared is not None else ""
        task = TASK.fold(task_id, await self._events("task", task_id)) if task_id else TASK.initial("")
        runs, checks = await self._requested(id, task)
        actions = reconcile.reconcile(
            environment,
            task,
            {**reconcile.requested_calls(runs, checks, task.id), **reconcile.asked_calls(environment)},
            stands=self._plumbing.workspaces.stands(id),
            active=reconcile.goes_on(runs),
            alive=() if busy else [name for name, runs in (await self._plumbing.processes.known(id)).items() if runs],
        )
        for action in actions:
            await self._carry_out(id, environment, action)
            if isinstance(action, reconcile.Remove | reconcile.RemoveOrphan):
                return
        if environment.stands and self._plumbing.workspaces.stands(id):
            await self._plumbing.processes.ready(id)
            self._executor.bundles.note(id)

    async def _carry_out(self, id: str, environment: Environment, action: reconcile.Action) -> None:
        match action:
            case reconcile.Remove(reason=reason):
                await self.remove(id, reason)
            case reconcile.RemoveOrphan(reason=reason):
                await self._remove_orphan(id, reason)
            case reconcile.Lose():
                await self._executor.lost(id, environment)
            case reconcile.Prepare(command=command):
                await self._prepare(id, command, self._cause(id, "prepared-again"))
            case reconcile.Abandon(started=started):
                if not self._executor.rooms.works_on(id, started.call_id):
                    await self._executor.abandon(id, started)
            case reconcile.EndProcess(process_id=process_id):
                await self._plumbing.processes.interrupt(id, process_id)
                await self._say_removed(id, "process", process_id, "its call has ended")
            case reconcile.Continue(command=command):
                self._executor.begin(id, command, Cause(id=command.call_id, actor="environment-manager"))
            case reconcile.Inspect():
                if not self._executor.rooms.busy(id):
                    await self._inspector.inspect(id, self._cause(id, "inspected"))

    async def _end_all(self, id: str, reason: str) -> None:
        """Nothing runs in the environment afterwards, nor in its system."""
        await self._executor.interrupt_all(id, reason)
        if self._systems is not None:
            await self._systems.take_down((await self._plumbing.environments.load(id))[0])
        await self._plumbing.processes.close(id)

    async def _remove_orphan(self, id: str, reason: str) -> None:
        await self._end_all(id, reason)
        if self._plumbing.workspaces.directory(id).exists():
            await self._say_removed(id, "workspace", id, reason)
        await self._plumbing.workspaces.remove(id)
        logger.warning("orphan removed", environment=id, reason=reason)

    async def _keep_checkpoints(self) -> bool:
        """What keeps checkpoints that nobody can ask for goes. It was listed before the log was read, and goes only as
        it was listed: what another process makes meanwhile stays."""
        try:
            found = await self._plumbing.workspaces.kept()
        except CairnError as error:
            logger.warning("checkpoints not listed", error=str(error))
            return False
        unsure = [kept for kept in found if kept.environment_id not in self._explained]
        return all([await self._keep_checkpoints_of(kept) for kept in unsure])

    async def _keep_checkpoints_of(self, kept: Kept) -> bool:
        id = kept.environment_id
        try:
            last = await self._plumbing.log.last(ENVIRONMENT.name, id)
            reason = reconcile.unexplained(last.envelope.events if last is not None else ())
            if reason and last is not None:  # What was said last does not tell; all of it does, and is short.
                reason = reconcile.unexplained(await self._events(ENVIRONMENT.name, id))
            if not reason:
                self._explained.add(id)
            elif await self._plumbing.workspaces.forget(kept):
                await self._say_removed(id, "checkpoints", id, reason)
                logger.warning("orphaned checkpoints removed", environment=id, reason=reason)
        except CairnError as error:
            logger.warning("checkpoints not reconciled", environment=id, error=str(error))
            return False
        return True

    async def _say_removed(self, id: str, kind: str, name: str, reason: str) -> None:
        cause = self._cause(id, "orphan")
        await self._executor.append(id, cause, lambda state: decider.remove_orphan(kind, name, reason))

    def _cause(self, id: str, what: str) -> Cause:
        return Cause(id=f"{id}-{what}-{uuid.uuid4().hex}", actor="environment-manager")

    async def _requested(self, id: str, task: Task) -> tuple[list[Run], list[CheckRequested]]:
        """The runs and checks of the task that are to happen in the environment."""
        requests = [request for request in task.requests.values() if request.environment_id == id]
        runs: list[Run] = [
            RUN.fold(request.run_id, await self._events(RUN.name, request.run_id))
            for request in requests
            if isinstance(request, RunRequested)
        ]
        return runs, [request for request in requests if isinstance(request, CheckRequested)]

    async def _events(self, entity: str, id: str) -> list[Event]:
        return [event for record in await self._log.load(entity, id) for event in record.envelope.events]

    async def _leave(self, id: str, environment: Environment) -> None:
        """It lives on another host: what is left of it here ends. Nothing is said in the log, which is not ours."""
        if self._executor.rooms.is_prepared(id):
            return  # It is being taken over at this moment.
        await self._end_all(id, f"it lives on {environment.host} now")
        await self._plumbing.workspaces.remove(id)
        logger.warning("left", environment=id, to=environment.host)

    def _displaced(self, id: str) -> None:
        self._begin(self._keep_one(id))

    async def _keep_one(self, id: str) -> bool:
        try:
            await self._keep(id)
        except CairnError as error:
            logger.warning("not reconciled", environment=id, error=str(error))
            return False
        return True

    async def remove(self, id: str, reason: str) -> None:
        """End what runs in the environment, then remove it: first in the log, so that nobody counts on it."""
        await self._end_all(id, reason)
        await self._executor.bundles.finish(id)
        await self._executor.append(
            id,
            Cause(id=f"{id}-removed-{reason}", actor="environment-manager"),
            lambda state: decider.remove(state, reason),
        )
        await self._plumbing.workspaces.remove(id)
        logger.info("removed", environment=id, reason=reason)

    def _deliver(self, record: Recorded) -> None:
        if any(isinstance(event, TaskCancelled | TaskCompleted) for event in record.envelope.events):
            self._begin(self._remove_those_of(record.envelope.entity_id))

    def _begin(self, work: Coroutine[Any, Any, object]) -> None:
        task: asyncio.Task[object] = asyncio.create_task(work)
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    async def _remove_those_of(self, task_id: str) -> None:
        try:
            for id in await self._plumbing.workspaces.existing():
                if id.startswith(f"{task_id}-"):
                    await self._keep(id)
        except CairnError as error:
            logger.warning("removed later", task=task_id, error=str(error))
