"""Composed systems as calls of an environment: the log in memory, Compose and the engine real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from events.content import Inline
from events.environment import CallEnd, ExecuteTool, ToolCallFailed, ToolCallInterrupted
from events.kernel import Event
from events.tools import find
from infra.entities import Cause
from infra.ports import read_content
from services.environment_manager.adapters.compose import DockerCompose
from tests.engine import BASE_IMAGE
from tests.unit.environment_twins import Environments

# A web server that answers once it is asked, as small as the base image has one.
WEB = f"""\
services:
  web:
    image: {BASE_IMAGE}
    command: ["python3", "-m", "http.server", "80", "--directory", "/srv"]
    init: true
    stop_grace_period: 1s
    ports: ["8080:80"]
    healthcheck:
      test: ["CMD", "python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1/')"]
      interval: 500ms
      timeout: 3s
      retries: 10
"""


class Composing(Environments):
    """One environment that stands. Its workspace holds what ``write`` puts there."""

    def __init__(self, home: Path, *, id: str = "") -> None:
        self.compose = DockerCompose(home)
        super().__init__(home, id=id or f"p-{uuid.uuid4().hex[:12]}", systems=self.compose)
        self.workspace = self.workspaces.directory(self.id) / "workspace"
        self.workspace.mkdir(exist_ok=True)

    def write(self, name: str, text: str) -> None:
        path = self.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def command(self, tool: str, **arguments: Any) -> ExecuteTool:
        definition = find(tool)
        assert definition is not None
        return ExecuteTool(
            call_id=f"{self.id}-{uuid.uuid4().hex[:8]}",
            run_id=f"{self.id}-run",
            task_id="shop-1",
            tool=tool,
            arguments=Inline(json.dumps(arguments)),
            effects=definition.effects,
            retry=definition.retry,
            groups=("compose",),
        )

    def begin(self, command: ExecuteTool) -> asyncio.Task[None]:
        self.executor.begin(self.id, command, Cause(id=command.call_id))
        return self.room().calls[command.call_id]

    async def call(self, tool: str, **arguments: Any) -> tuple[CallEnd, str]:
        """How the call ended, and all that the agent is told of it."""
        command = self.command(tool, **arguments)
        await self.begin(command)
        return await self.end_of(command.call_id)

    async def end_of(self, call_id: str) -> tuple[CallEnd, str]:
        ended = next(event for event in await self.said() if isinstance(event, CallEnd) and event.call_id == call_id)
        if isinstance(ended, ToolCallInterrupted):
            return ended, ended.reason
        detail = f"{ended.cause}: {ended.detail}\n" if isinstance(ended, ToolCallFailed) else ""
        return ended, detail + await read_content(self.memory.content, ended.content)

    async def said(self) -> list[Event]:
        """What the log holds of the environment."""
        records = await self.memory.log.load("environment", self.id)
        return [event for record in records for event in record.envelope.events]

    async def state(self) -> Any:
        return (await self.plumbing.environments.load(self.id))[0]

    async def port(self, service: str = "web") -> int:
        system = (await self.state()).system
        return next(port.port for item in system.services if item.service == service for port in item.ports)


@contextlib.asynccontextmanager
async def composing(home: Path, **of: Any) -> AsyncIterator[Composing]:
    """An environment that stands; nothing of its system is left afterwards."""
    environment = await Composing(home, **of).stand()
    try:
        yield environment
    finally:
        await environment.executor.stop()
        await environment.compose.down(environment.id, volumes=True)
        await environment.compose.close()
