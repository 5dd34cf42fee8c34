"""Starts the chaos service: ``python -m services.chaos``."""

from __future__ import annotations

import asyncio
import sys

from events import subjects
from events.chaos import CHAOS
from events.environment import ENVIRONMENT
from events.experiment import EXPERIMENT
from infra.consuming import consumer
from infra.entities import EntityStore
from infra.sender import Sender
from infra.service import Runtime, run
from services.chaos import policy
from services.chaos.commands import EnvironmentCommands
from services.chaos.handlers import Handlers
from services.chaos.keeper import Keeper
from services.chaos.ports import Faults, World
from services.chaos.runner import Plumbing, Runner

CONCURRENCY = 8
STOP_SECONDS = 2.0


class Chaos:
    def __init__(self, runtime: Runtime, faults: Faults, world: World) -> None:
        settings, jetstream = runtime.settings, runtime.jetstream
        tenant, host, service = settings.tenant, settings.host, subjects.CHAOS
        sender = Sender(jetstream.commands, runtime.clock, tenant=tenant, name=service)
        self._commands = EnvironmentCommands(jetstream.log, sender, jetstream.content, runtime.clock, host)
        chaos = EntityStore(jetstream.log, CHAOS, runtime.clock)
        plumbing = Plumbing(
            experiments=EntityStore(jetstream.log, EXPERIMENT, runtime.clock),
            faults=faults,
            world=world,
            commands=self._commands,
            clock=runtime.clock,
            rules=policy.Rules(
                projects=settings.chaos.projects,
                protected=settings.chaos.protected,
                faults_at_once=settings.chaos.faults_at_once,
                longest_fault_seconds=settings.chaos.longest_fault_seconds,
            ),
            host=host,
        )
        self._runtime = runtime
        self._runner = Runner(plumbing)
        handlers = Handlers(plumbing, self._runner, EntityStore(jetstream.log, ENVIRONMENT, runtime.clock), chaos)
        self._keeper = Keeper(
            jetstream.log, plumbing, self._runner, chaos, runtime.settings.home_path / "chaos" / "under-way"
        )
        self._consumers = [
            consumer(
                runtime,
                durable=f"{service}-{tenant}-{host}",
                stream=subjects.COMMANDS,
                filters=[subjects.command(tenant, service, host, EXPERIMENT.name, "*")],
                handler=handlers.handle,
                concurrency=CONCURRENCY,
            ),
            consumer(
                runtime,
                durable=f"{service}-{tenant}",
                stream=subjects.COMMANDS,
                filters=[subjects.command(tenant, service, subjects.ANY, CHAOS.name, "*")],
                handler=handlers.handle_chaos,
                concurrency=1,
            ),
        ]

    async def start(self) -> Chaos:
        """Agree with the log first: what is under way goes on before anything new is taken."""
        self._followings = [await self._commands.start(), await self._keeper.start()]
        for taking in self._consumers:
            await taking.start()
        self._keeping = self._runtime.guard(asyncio.create_task(self._keeper.run()))
        return self

    async def stop(self) -> None:
        """Faults that hold stay until their end; whoever comes next goes on with their experiments."""
        self._keeping.cancel()
        for taking in self._consumers:
            await taking.stop(STOP_SECONDS)
        await self._runner.stop()
        await self._keeper.stop()
        for following in self._followings:
            await following.close()


async def start(runtime: Runtime) -> Chaos:
    from infra.docker.engine import Engine  # aiodocker takes its time to import
    from services.chaos.adapters.faults import DockerFaults
    from services.chaos.adapters.world import DockerWorld

    settings, engine = runtime.settings, Engine()
    return await Chaos(
        runtime, DockerFaults.of(settings, engine), DockerWorld(engine, str(runtime.settings.home_path))
    ).start()


if __name__ == "__main__":
    sys.exit(run(subjects.CHAOS, start))
