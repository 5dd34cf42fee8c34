"""What people ask of environments themselves: one of their own, a call in one, that it goes.

These commands come durably and to any host; ``Moving`` hands them on to where the environment lives. Everything else is
for ``Handlers``.
"""

from __future__ import annotations

from events import names
from events.calls import call_of_request
from events.envelope import CommandEnvelope, Outcome
from events.environment import ENVIRONMENT, Environment, PrepareEnvironment
from events.errors import CommandRejected
from events.kernel import replace
from events.requests import RemoveEnvironment, RequestCall
from events.task_state import TASK
from infra.entities import Cause
from services.environment_manager.deciders import environment as decider
from services.environment_manager.executor import Executor, Plumbing
from services.environment_manager.handlers import Handlers
from services.environment_manager.keeper import Keeper
from services.environment_manager.moving import Moving


class People:
    def __init__(
        self, plumbing: Plumbing, executor: Executor, moving: Moving, handlers: Handlers, keeper: Keeper
    ) -> None:
        self._plumbing = plumbing
        self._executor = executor
        self._moving = moving
        self._handlers = handlers
        self._keeper = keeper

    async def handle(self, envelope: CommandEnvelope) -> Outcome | None:
        command = envelope.command
        if not isinstance(command, RequestCall | RemoveEnvironment) and not _is_of_person(command):
            return await self._handlers.handle(envelope)
        if not await self._moving.is_here(envelope):
            return None
        id = envelope.entity_id
        if isinstance(command, PrepareEnvironment):
            await self._prepare(envelope, command)
        elif isinstance(command, RequestCall):
            await self._call(envelope, command)
        elif isinstance(command, RemoveEnvironment):
            await self._remove(envelope, command)
        _, revision = await self._plumbing.environments.load(id)
        return Outcome(accepted=True, entity=ENVIRONMENT.name, entity_id=id, sequence=revision)

    async def _prepare(self, envelope: CommandEnvelope, command: PrepareEnvironment) -> None:
        id = envelope.entity_id
        await self._handlers.prepare(id, replace(command, made_by=envelope.actor), Cause.of(envelope))
        state, _ = await self._plumbing.environments.load(id)
        if state.failure is not None and not state.stands:
            raise CommandRejected(state.failure.detail, slug=state.failure.cause)

    async def _call(self, envelope: CommandEnvelope, command: RequestCall) -> None:
        """In the log first; from there on it is a call like those of agents."""
        id, call_id = envelope.entity_id, names.requested_call_id(envelope.entity_id, envelope.id)
        state = await self._executor.append(
            id,
            Cause.of(envelope),
            lambda state: decider.request_call(state, command, call_id=call_id, by=envelope.actor),
        )
        if call_id in state.asked:
            self._executor.begin(id, call_of_request(state, state.asked[call_id]), Cause.of(envelope))

    async def _remove(self, envelope: CommandEnvelope, command: RemoveEnvironment) -> None:
        state, _ = await self._plumbing.environments.load(envelope.entity_id)
        decider.check_removable(state, active=await self._is_active(state))
        if not state.removed:
            await self._keeper.remove(state.id, command.reason or f"removed by {envelope.actor}")

    async def _is_active(self, state: Environment) -> bool:
        """Whether its task asks for a run or a check in it."""
        task_id = state.prepared.task_id if state.prepared is not None else ""
        records = await self._plumbing.log.load(TASK.name, task_id) if task_id else []
        task = TASK.fold(task_id, [event for record in records for event in record.envelope.events])
        return any(request.environment_id == state.id for request in task.requests.values())


def _is_of_person(command: object) -> bool:
    return isinstance(command, PrepareEnvironment) and not command.task_id
