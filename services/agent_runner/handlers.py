"""``StartRun`` is the lease: the handler returns when the run has ended, and the command is acknowledged then."""

from __future__ import annotations

from events.agents import ModelAgent, ProgramAgent
from events.envelope import CommandEnvelope
from events.errors import CommandRejected, Transient
from events.run import StartRun
from services.agent_runner import model_loop, program_loop
from services.agent_runner.driver import Driver
from services.agent_runner.plumbing import Plumbing
from services.agent_runner.shown import ShownLeases

GIVE_BACK_SECONDS = 1.0


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
        if isinstance(command.agent, ProgramAgent):
            await self._leave_to_others(envelope.entity_id, command.agent)
        driver = Driver(self._plumbing, envelope, command)
        self._driving.add(driver)
        try:
            async with self._leases.shown(envelope.entity_id):
                await driver.drive(model_loop.work if isinstance(command.agent, ModelAgent) else program_loop.work)
        finally:
            self._driving.discard(driver)

    async def _leave_to_others(self, run_id: str, agent: ProgramAgent) -> None:
        """Give a run that has not begun back, where its program cannot be run here and can be elsewhere."""
        told = await self._plumbing.hosts.preflights()
        found = {host: programs.get(agent.command[0]) for host, programs in told.items() if agent.command}
        here = found.get(self._plumbing.host)
        others = [finding for finding in found.values() if finding is not None and not finding.problem]
        if here is None or not here.problem or not others:
            return
        run, _ = await self._plumbing.runs.load(run_id)
        if run.started is None:
            message = f"{here.problem} here, but on another host it can be run"
            raise Transient(message, delay_seconds=GIVE_BACK_SECONDS)
