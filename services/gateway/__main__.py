"""Starts the gateway: ``python -m services.gateway``. Exit code 2 where its settings or its port cannot be used."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys

import structlog

from events import subjects
from infra import settings
from infra.agents import ConfiguredAgents
from infra.api_keys import KEYS_FILE, ApiKeys, ensure_local_key, let_in
from infra.durability import Finder
from infra.hosts import Hosts
from infra.postgres import sign_in_url
from infra.process import EXIT_SETTINGS
from infra.secrets import resolve
from infra.service import Runtime, run
from infra.settings import SettingsInvalid
from projections.waiting import ReadModelProgress
from services.gateway.app import make_app
from services.gateway.archives import Archives
from services.gateway.checkpoints import HostCheckpoints
from services.gateway.commands import Commands
from services.gateway.explanation import ReadModelExplainer
from services.gateway.feeds import Feeds, Hub
from services.gateway.output_stream import OutputStreams
from services.gateway.parts import Parts
from services.gateway.preflights import of_hosts
from services.gateway.read_models import LazyReadModels
from services.gateway.server import PortUnusable, Server, bind
from services.gateway.sse import EventStreams

log = structlog.get_logger()

# Who asks a question wants to know soon that there is no answer.
PATIENCE_SECONDS = 4.0


class Serving:
    """The running gateway. Stopping ends the live streams first, then waits for the requests under way."""

    def __init__(
        self, server: Server, serving: asyncio.Task[None], feeds: Feeds, behind: contextlib.AsyncExitStack
    ) -> None:
        self._server = server
        self._serving = serving
        self._feeds = feeds
        self._behind = behind

    async def stop(self) -> None:
        self._feeds.close()
        self._server.should_exit = True
        await self._serving
        await self._behind.aclose()


async def start(runtime: Runtime, bound: socket.socket) -> Serving:
    chosen, jetstream = runtime.settings, runtime.jetstream
    jetstream.give_up_after(PATIENCE_SECONDS)
    if chosen.gateway.key:
        let_in(chosen.home_path, resolve(chosen.gateway.key))
    elif not (chosen.home_path / KEYS_FILE).exists():
        ensure_local_key(chosen.home_path)
    async with contextlib.AsyncExitStack() as stack:
        feeds, hub = Feeds(), Hub(jetstream.log)
        await hub.start()
        stack.push_async_callback(hub.stop)
        database = sign_in_url(chosen.postgres)
        read_models = LazyReadModels(database, chosen.tenant)
        stack.push_async_callback(read_models.close)
        progress = await stack.enter_async_context(ReadModelProgress(database, chosen.tenant))
        hosts = Hosts(jetstream.hosts, runtime.clock, own="", lease_seconds=chosen.worker.lease_seconds)
        jetstream.on_reconnect(hosts.reconnected)
        preflights = of_hosts(hosts)
        parts = Parts(
            commands=Commands(
                jetstream.commands,
                runtime.clock,
                tenant=chosen.tenant,
                timeout_seconds=chosen.gateway.outcome_timeout_seconds,
            ),
            log=jetstream.log,
            content=jetstream.content,
            checkpoints=HostCheckpoints(
                jetstream.commands, hosts, jetstream.content, runtime.clock, tenant=chosen.tenant
            ),
            archives=Archives(chosen.home_path / "imports"),
            dead_letters=jetstream.dead_letters,
            leases=jetstream.leases,
            hosts=jetstream.hosts,
            services=jetstream.takers.all,
            preflights=preflights,
            agents_at_once=chosen.scheduling.agents_at_once,
            durability=Finder(chosen.nats),
            read_models=read_models,
            read_model_progress=progress,
            explainer=ReadModelExplainer(
                read_models,
                runtime.clock,
                chosen.scheduling.agents_at_once,
                ConfiguredAgents().known,
                preflights,
                jetstream.leases,
                chosen.worker.lease_seconds,
            ),
            event_streams=EventStreams(jetstream.log, hub, feeds),
            output_streams=OutputStreams(jetstream.log, jetstream.output, hub, feeds),
            health=runtime.health,
        )
        app = make_app(parts, ApiKeys(chosen.home_path), max_body_bytes=chosen.gateway.max_body_bytes)
        server = Server(app, bound)
        serving = runtime.guard(await server.start())
        log.info("listening", url=server.url)
        return Serving(server, serving, feeds, stack.pop_all())


def main() -> int:
    try:
        # Before anything else is waited for: a port in use is said at once.
        bound = bind(settings.load().gateway)
    except (SettingsInvalid, PortUnusable) as error:
        sys.stderr.write(f"cairn {subjects.GATEWAY}: {error}\n")
        return EXIT_SETTINGS
    return run(subjects.GATEWAY, lambda runtime: start(runtime, bound))


if __name__ == "__main__":
    sys.exit(main())
