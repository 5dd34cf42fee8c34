"""Environments in containers without the services around them: the adapters of an environment-manager over a home."""

from __future__ import annotations

import uuid
from pathlib import Path

from events.sandboxes import Sandbox
from infra.docker import labels
from infra.docker.engine import Engine
from infra.redaction import Redactor
from infra.settings import Worker
from services.environment_manager.adapters.processes import ShimProcesses
from services.environment_manager.adapters.sandboxes import ContainerSandboxes
from services.environment_manager.adapters.workspaces import GitWorkspaces
from services.environment_manager.ports import Exit, Limits
from services.environment_manager.tools import process_environment

NOTHING = Redactor(())
OFFLINE = Sandbox(network="none")


class Place:
    """One environment-manager's adapters over a home; ``again`` is the next life of the process."""

    def __init__(self, home: Path, engine: Engine, worker: Worker) -> None:
        self.home, self.engine, self.worker = home, engine, worker
        self.marks = {labels.TENANT: "tests", labels.HOST: "here"}
        self.workspaces = GitWorkspaces(home)
        self.sandboxes = ContainerSandboxes(
            home,
            worker,
            directory=self.workspaces.directory,
            mirror=self.workspaces.mirror,
            marks=self.marks,
        )
        self.workspaces.restored = self.sandboxes.give_workspace
        self.processes = ShimProcesses(self.workspaces.directory, containers=self.sandboxes)

    def again(self) -> Place:
        return Place(self.home, self.engine, self.worker)

    async def prepare(self, id: str, source: Path, sandbox: Sandbox = OFFLINE) -> str:
        await self.workspaces.prepare(id, str(source), base_branch="main", bases=())
        image = await self.sandboxes.furnish(id, sandbox, str(source))
        await self.processes.ready(id)
        return image

    async def start(
        self,
        id: str,
        call: str,
        command: str,
        *,
        shell: tuple[str, ...] = ("/bin/bash",),
        services: tuple[str, ...] = (),
        **limits: float,
    ) -> None:
        directory = self.workspaces.directory(id)
        variables = process_environment(directory, {}, {}, inside=self.processes.inside(id), services=services)
        await self.processes.ready(id)
        await self.processes.start(
            id, call, (*shell, "-c", command), env=variables, limits=Limits(seconds=limits.get("seconds", 60.0))
        )

    async def run(
        self, id: str, command: str, *, shell: tuple[str, ...] = ("/bin/bash",), services: tuple[str, ...] = ()
    ) -> tuple[Exit, str]:
        call = f"call-{uuid.uuid4().hex}"
        await self.start(id, call, command, shell=shell, services=services)
        ended = await self.processes.wait(id, call)
        assert ended is not None
        return ended, (await self.processes.output(id, call, NOTHING, limit_bytes=100_000)).decode()

    async def container(self, id: str) -> str:
        return str((await self.engine.inspect(self.sandboxes.name(id)))["Id"])
