"""Checkpoints of workspaces: they lie on the hosts of their environments, which are asked for them.

Where that host is gone, and has bundled them for others, another one is asked. The answer comes by way of the content
store. A question that a host does not answer in time is lost, not kept: ask again.
"""

from __future__ import annotations

import uuid

from events import subjects
from events.checkpoints import BundleCheckpoints, CompareCheckpoints, PackWorkspace
from events.envelope import CommandEnvelope
from events.environment import Environment
from events.errors import CommandRejected, Transient
from events.kernel import Command
from infra.hosts import Hosts
from infra.ports import Clock, CommandBus, ContentStore
from infra.telemetry import current_trace
from services.gateway.ports import HostSilent

ANSWER_SECONDS = 50.0
CHECK_SECONDS = 3.0


class HostCheckpoints:
    """``Checkpoints`` by asking the environment-managers."""

    def __init__(self, bus: CommandBus, hosts: Hosts, content: ContentStore, clock: Clock, *, tenant: str) -> None:
        self._bus = bus
        self._hosts = hosts
        self._content = content
        self._clock = clock
        self._tenant = tenant

    async def diff(self, environment: Environment, older: str, newer: str) -> bytes:
        return await self._ask(environment, CompareCheckpoints(older=older, newer=newer))

    async def pack(self, environment: Environment, commit: str) -> bytes:
        return await self._ask(environment, PackWorkspace(commit=commit))

    async def check(self, environment: Environment, commit: str) -> None:
        command = CompareCheckpoints(older=commit, newer=commit)
        await self._ask(environment, command, timeout_seconds=CHECK_SECONDS)

    async def bundle(self, environment: Environment) -> bytes:
        return await self._ask(environment, BundleCheckpoints())

    async def _ask(
        self, environment: Environment, command: Command, *, timeout_seconds: float = ANSWER_SECONDS
    ) -> bytes:
        envelope = CommandEnvelope(
            id=uuid.uuid4().hex,
            tenant=self._tenant,
            entity=subjects.CHECKPOINT_TOKEN,
            entity_id=environment.id,
            time=self._clock.now(),
            command=command,
            actor=subjects.GATEWAY,
            trace=current_trace(),
        )
        host = await self._host_of(environment)
        outcome = await self._bus.ask(subjects.ENVIRONMENT_MANAGER, host, envelope, timeout_seconds=timeout_seconds)
        if outcome is None:
            message = f"the checkpoints of {environment.id} lie on host {host}, which does not answer"
            raise HostSilent(message)
        if not outcome.accepted:
            raise CommandRejected(outcome.message, slug=outcome.slug, status=outcome.status)
        data = await self._content.get(outcome.content)
        if data is None:
            message = f"what host {host} answered is not in the content store"
            raise Transient(message)
        return data

    async def _host_of(self, environment: Environment) -> str:
        """The host that can answer for the environment. Raises ``HostSilent`` where there is none."""
        if not await self._hosts.is_gone(environment.host):
            return environment.host
        living = await self._hosts.living()
        if not living or not environment.bundles:
            message = f"the checkpoints of {environment.id} lie on host {environment.host}, which is gone"
            raise HostSilent(message)
        return living[0]
