"""What the workers found out about the programs of agents, as far as it can be seen now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from events.preflight import Preflights
from infra.hosts import Hosts

log = structlog.get_logger()

PATIENCE_SECONDS = 1.0

AskPreflights = Callable[[], Awaitable[Preflights]]


def of_hosts(hosts: Hosts) -> AskPreflights:
    """Nothing is told while NATS is away."""

    async def ask() -> Preflights:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await hosts.preflights()
        except TimeoutError:
            log.warning("preflights unknown")
            return {}

    return ask
