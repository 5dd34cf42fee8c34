"""``StartRun`` is the lease: the handler returns when the run has ended, and the command is acknowledged then."""

from __future__ import annotations

from events.agents import ModelAgent
from events.envelope import CommandEnvelope
from events.errors import CommandRejected
from events.run import StartRun
from services.agent_runner import model_loop, program_loop
from services.agent_runner.driver import Driver
from services.agent_runner.plumbing import Plumbing
from services.agent_runner.shown import ShownLeases


class Handlers:
    def __init__(self, plumbing: Plumbing, leases: ShownLeases) -> None:
        self._plumbing = plumbing
        self._leases = leases
        self._driving: set[Driver] = set()

    def send_again_soon(self) -> None:
        """The connection came back: calls that were on their way may be lost."""
        for driver in self._driving:
            driver.send_again_soon()

    async def handle(self, envelope: CommandEnvelope) -> None:
        command = envelope.command
        if not isinstance(command, StartRun):
            message = f"{type(command).__name__} is no command for a run."
            raise CommandRejected(message, slug="unknown-command", status=400)
        driver = Driver(self._plumbing, envelope, command)
        self._driving.add(driver)
        try:
            async with self._leases.shown(envelope.entity_id):
                await driver.drive(model_loop.work if isinstance(command.agent, ModelAgent) else program_loop.work)
        finally:
            self._driving.discard(driver)
