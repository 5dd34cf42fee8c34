"""Starts the environment-manager: ``python -m services.environment_manager``."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from events import subjects
from events.environment import ENVIRONMENT
from events.pull_request import PULL_REQUEST
from events.tools import Arguments, EditFile, WriteFile
from infra.agents import ConfiguredAgents
from infra.consuming import consumer
from infra.docker import labels
from infra.entities import EntityStore
from infra.hosts import Hosts
from infra.secrets import resolve
from infra.sender import Sender
from infra.service import Runtime, run
from services.environment_manager import tools
from services.environment_manager.adapters.compose import DockerCompose
from services.environment_manager.adapters.installations import DockerInstallations
from services.environment_manager.adapters.processes import ShimProcesses
from services.environment_manager.adapters.programs import try_program
from services.environment_manager.adapters.sandboxes import ContainerSandboxes
from services.environment_manager.adapters.workspaces import GitWorkspaces
from services.environment_manager.checkpoints import CheckpointHandlers
from services.environment_manager.executor import Executor, Plumbing
from services.environment_manager.experiments import Experiments
from services.environment_manager.handlers import Handlers
from services.environment_manager.keeper import Keeper
from services.environment_manager.moving import Moving
from services.environment_manager.operations import OPERATIONS
from services.environment_manager.output import OutputWriter
from services.environment_manager.people import People
from services.environment_manager.ports import FileTools, Installations, Processes, Sandboxes, Systems, Workspaces
from services.environment_manager.preflight import Preflight
from services.environment_manager.pull_requests import PullRequestHandlers
from services.environment_manager.systems import ComposedSystems

CONCURRENCY = 16
CALLS_AT_ONCE = 1000
STOP_SECONDS = 2.0


class EnvironmentManager:
    """Without ``systems`` this host composes none, without ``sandboxes`` it has no containers for environments."""

    def __init__(
        self,
        runtime: Runtime,
        workspaces: Workspaces,
        processes: Processes,
        execute_file_tool: FileTools,
        preflight: Preflight,
        systems: Systems | None = None,
        sandboxes: Sandboxes | None = None,
        installations: Installations | None = None,
    ) -> None:
        settings, jetstream = runtime.settings, runtime.jetstream
        self._systems = systems
        self._installations = installations
        composed = (
            ComposedSystems(systems, jetstream.log, tenant=settings.tenant, host=settings.host)
            if systems is not None
            else None
        )
        sender = Sender(jetstream.commands, runtime.clock, tenant=settings.tenant, name=subjects.ENVIRONMENT_MANAGER)
        composing = composed.operations() if composed is not None else {}
        experiments = Experiments(jetstream.log, sender, host=settings.host, systems=composing)
        plumbing = Plumbing(
            log=jetstream.log,
            environments=EntityStore(jetstream.log, ENVIRONMENT, runtime.clock),
            workspaces=workspaces,
            processes=processes,
            execute_file_tool=execute_file_tool,
            operations={**OPERATIONS, **composing, **experiments.operations()},
            content=jetstream.content,
            output=OutputWriter(jetstream.output),
            sender=sender,
            clock=runtime.clock,
            resolve_secret=resolve,
            grace_seconds=settings.worker.grace_seconds,
            output_limit_bytes=settings.worker.output_limit_bytes,
            host=settings.host,
            bundle_checkpoints=settings.worker.bundle_checkpoints != "never",
            sandboxes=sandboxes,
        )
        self._runtime = runtime
        self._sandboxes = sandboxes
        self._preflight = preflight
        self._hosts = Hosts(
            jetstream.hosts, runtime.clock, own=settings.host, lease_seconds=settings.worker.lease_seconds
        )
        jetstream.on_reconnect(self._hosts.reconnected)
        self._executor = Executor(plumbing)
        checkpoints = CheckpointHandlers(plumbing.environments, workspaces, self._executor.bundles, jetstream.content)
        pull_requests = PullRequestHandlers(
            EntityStore(jetstream.log, PULL_REQUEST, runtime.clock), workspaces, jetstream.content
        )
        moving = Moving(plumbing, self._executor, self._hosts)
        handlers = Handlers(plumbing, self._executor, moving, pull_requests)
        self._keeper = Keeper(jetstream.log, plumbing, self._executor, handlers.prepare, composed, installations)
        handlers.remove = self._keeper.remove
        people = People(plumbing, self._executor, moving, handlers, self._keeper)
        tenant, host, service = settings.tenant, settings.host, subjects.ENVIRONMENT_MANAGER
        self._consumers = [
            consumer(
                runtime,
                durable=f"{service}-{tenant}-{host}",
                stream=subjects.COMMANDS,
                filters=[subjects.command(tenant, service, host, "environment", "*")],
                handler=people.handle,
                concurrency=CONCURRENCY,
            ),
            consumer(
                runtime,
                durable=f"{service}-{tenant}-{subjects.ANY}",
                stream=subjects.COMMANDS,
                filters=[subjects.command(tenant, service, subjects.ANY, "environment", "*")],
                handler=people.handle,
                concurrency=CONCURRENCY,
            ),
            consumer(
                runtime,
                durable=f"{service}-{tenant}-{host}-calls",
                stream=subjects.CALLS,
                filters=[subjects.command(tenant, service, host, subjects.CALL_TOKEN, "*")],
                handler=handlers.handle,
                concurrency=CALLS_AT_ONCE,
                remember_leases=False,
            ),
            consumer(
                runtime,
                durable=f"{service}-{tenant}-{host}-checkpoints",
                stream=subjects.CALLS,
                filters=[subjects.command(tenant, service, host, subjects.CHECKPOINT_TOKEN, "*")],
                handler=checkpoints.handle,
                concurrency=CONCURRENCY,
                remember_leases=False,
            ),
            consumer(
                runtime,
                durable=f"{service}-{tenant}-pull-requests",
                stream=subjects.COMMANDS,
                filters=[subjects.command(tenant, service, subjects.ANY, "pull_request", "*")],
                handler=pull_requests.handle,
                concurrency=CONCURRENCY,
            ),
        ]

    async def start(self) -> EnvironmentManager:
        """Agree with the log first: what was begun before goes on before anything new is taken."""
        await self._preflight.look()  # Before anybody counts on this host.
        self._announcing = self._runtime.guard(asyncio.create_task(self._hosts.announce(self._preflight.sign)))
        self._looking = self._runtime.guard(asyncio.create_task(self._preflight.run()))
        self._following = await self._keeper.start()
        for taking in self._consumers:
            await taking.start()
        self._keeping = self._runtime.guard(asyncio.create_task(self._keeper.run()))
        return self

    async def stop(self) -> None:
        self._keeping.cancel()
        self._announcing.cancel()
        self._looking.cancel()
        for taking in self._consumers:
            await taking.stop(STOP_SECONDS)
        await self._following.close()
        await self._executor.stop()
        for closing in (self._sandboxes, self._systems, self._installations):
            if closing is not None:
                await closing.close()


async def start(runtime: Runtime) -> EnvironmentManager:
    settings = runtime.settings
    workspaces = GitWorkspaces(settings.home_path)
    marks = {labels.TENANT: settings.tenant, labels.HOST: settings.host}
    sandboxes = ContainerSandboxes(
        settings.home_path,
        settings.worker,
        directory=workspaces.directory,
        mirror=workspaces.mirror,
        marks=marks,
    )
    workspaces.restored = sandboxes.give_workspace
    await sandboxes.begin()
    processes = ShimProcesses(workspaces.directory, containers=sandboxes)
    systems = DockerCompose(settings.home_path, marks=marks)
    sandboxes.started = systems.join
    preflight = Preflight(
        ConfiguredAgents().known,
        try_program,
        runtime.clock,
        seconds=settings.worker.preflight_seconds,
        contained=sandboxes.contained,
    )

    async def execute_file_tool(workspace: Path, arguments: Arguments) -> str:
        shown = await tools.execute_file_tool(workspace, arguments)
        if isinstance(arguments, WriteFile | EditFile):
            sandboxes.give_file(workspace, arguments.path)
        return shown

    installations = DockerInstallations(runtime.clock, {**marks, labels.HOME: str(settings.home_path)})
    manager = EnvironmentManager(
        runtime, workspaces, processes, execute_file_tool, preflight, systems, sandboxes, installations
    )
    return await manager.start()


if __name__ == "__main__":
    sys.exit(run(subjects.ENVIRONMENT_MANAGER, start))
