"""Sending commands from inside a service: the envelope around them, and what led to them."""

from __future__ import annotations

from events.envelope import CommandEnvelope
from events.kernel import Command
from infra.entities import Cause
from infra.ports import Clock, CommandBus


class Sender:
    """Puts a command into its envelope, with correlation, causation and trace of ``cause``, and hands it over."""

    def __init__(self, bus: CommandBus, clock: Clock, *, tenant: str, name: str) -> None:
        self._bus = bus
        self._clock = clock
        self._tenant = tenant
        self._name = name

    async def send(
        self, service: str, target: str, entity: str, id: str, command: Command, *, command_id: str, cause: Cause
    ) -> bool:
        """Durably; False where an open job of the same run is there already. Raises ``Transient``."""
        return await self._bus.send(service, target, self._envelope(entity, id, command, command_id, cause))

    async def forward(self, service: str, target: str, envelope: CommandEnvelope) -> None:
        """Hand a command on, as it came, to where it belongs by now. Raises ``Transient``."""
        await self._bus.send(service, target, envelope)

    def cast(
        self, service: str, target: str, entity: str, id: str, command: Command, *, command_id: str, cause: Cause
    ) -> None:
        """Without waiting to know; for what reconciliation derives again."""
        self._bus.cast(service, target, self._envelope(entity, id, command, command_id, cause))

    def _envelope(self, entity: str, id: str, command: Command, command_id: str, cause: Cause) -> CommandEnvelope:
        return CommandEnvelope(
            id=command_id,
            tenant=self._tenant,
            entity=entity,
            entity_id=id,
            time=self._clock.now(),
            command=command,
            actor=self._name,
            correlation=cause.correlation or cause.id,
            causation=cause.id,
            trace=cause.trace,
        )
