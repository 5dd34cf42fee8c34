"""Starts the agent-runner: ``python -m services.agent_runner``."""

from __future__ import annotations

import sys
import uuid

from events import subjects, tools
from events.agents import Agent, ModelAgent
from events.run import RUN
from infra.consuming import consumer
from infra.entities import EntityStore
from infra.hosts import Hosts
from infra.secrets import resolve
from infra.sender import Sender
from infra.service import Runtime, run
from services.agent_runner.adapters import open_model
from services.agent_runner.adapters.http import Http
from services.agent_runner.breakers import Breakers
from services.agent_runner.handlers import Handlers
from services.agent_runner.plumbing import Plumbing
from services.agent_runner.ports import Model, Models
from services.agent_runner.prompts import system_prompt
from services.agent_runner.shown import ShownLeases
from services.agent_runner.watch import Watch


def _system(agent: Agent) -> str:
    if not isinstance(agent, ModelAgent):
        return ""
    return system_prompt([tool.name for tool in tools.AGENT_TOOLS], agent.instructions)


class HttpModels:
    """The models that agents name, over one pool of connections."""

    def __init__(self) -> None:
        self._http = Http()

    def open(self, agent: ModelAgent) -> Model:
        return open_model(agent, resolve, self._http)

    async def close(self) -> None:
        await self._http.close()


class AgentRunner:
    """``runner`` names this process: no other one, before or beside it, has the same name."""

    def __init__(self, runtime: Runtime, models: Models, *, runner: str) -> None:
        settings, jetstream = runtime.settings, runtime.jetstream
        self._watch = Watch(jetstream.log)
        self._models = models
        hosts = Hosts(jetstream.hosts, runtime.clock, own=settings.host, lease_seconds=settings.worker.lease_seconds)
        jetstream.on_reconnect(hosts.reconnected)
        plumbing = Plumbing(
            log=jetstream.log,
            runs=EntityStore(jetstream.log, RUN, runtime.clock),
            content=jetstream.content,
            sender=Sender(jetstream.commands, runtime.clock, tenant=settings.tenant, name=subjects.AGENT_RUNNER),
            clock=runtime.clock,
            watch=self._watch,
            open_model=models.open,
            system_prompt=_system,
            configured=settings.agents.get,
            snapshots=settings.home_path / "snapshots" / "runs",
            host=settings.host,
            runner=runner,
            backoff_seconds=settings.worker.model_backoff_seconds,
            hosts=hosts,
            breakers=Breakers(jetstream.log, self._watch),
        )
        leases = ShownLeases(
            jetstream.leases,
            runtime.clock,
            runner=runner,
            host=settings.host,
            seconds=settings.worker.lease_seconds,
        )
        handlers = Handlers(plumbing, leases)
        jetstream.on_reconnect(handlers.send_again_soon)
        self._consumer = consumer(
            runtime,
            durable=f"{subjects.AGENT_RUNNER}-{settings.tenant}-{subjects.ANY}",
            stream=subjects.RUNS,
            filters=[subjects.command(settings.tenant, subjects.AGENT_RUNNER, subjects.ANY, subjects.RUN_TOKEN, "*")],
            handler=handlers.handle,
            concurrency=settings.worker.agents_at_once,
            lease_seconds=settings.worker.lease_seconds,
        )

    async def start(self) -> AgentRunner:
        self._following = await self._watch.start()
        await self._consumer.start()
        return self

    async def stop(self) -> None:
        """Every lease is given back at once: whoever takes it goes on at the last durable step."""
        await self._consumer.stop(0)
        await self._following.close()
        await self._models.close()


async def start(runtime: Runtime) -> AgentRunner:
    runner = f"{runtime.settings.host}-{uuid.uuid4().hex[:12]}"
    return await AgentRunner(runtime, HttpModels(), runner=runner).start()


if __name__ == "__main__":
    sys.exit(run(subjects.AGENT_RUNNER, start))
