"""What the routes work with, put together once in ``__main__`` (or a test)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request

from infra.durability import Durability
from infra.health import Health
from infra.ports import ContentStore, DeadLetters, EventLog, HostRegistry, RunLeases
from services.gateway.archives import Archives
from services.gateway.commands import Commands
from services.gateway.output_stream import OutputStreams
from services.gateway.ports import Checkpoints, Explainer, OpenReadModels, ReadModelProgress
from services.gateway.preflights import AskPreflights
from services.gateway.sse import EventStreams


@dataclass(frozen=True, kw_only=True)
class Parts:
    commands: Commands
    log: EventLog
    content: ContentStore
    checkpoints: Checkpoints
    archives: Archives
    dead_letters: DeadLetters
    leases: RunLeases
    hosts: HostRegistry
    services: Callable[[], Awaitable[dict[str, bool]]]
    preflights: AskPreflights
    agents_at_once: int
    durability: Callable[[], Awaitable[Durability]]
    read_models: OpenReadModels
    read_model_progress: ReadModelProgress
    explainer: Explainer
    event_streams: EventStreams
    output_streams: OutputStreams
    health: Health


def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


@dataclass(frozen=True)
class Records:
    """A log to read, with the content and the checkpoints that it names."""

    log: EventLog
    content: ContentStore
    checkpoints: Checkpoints


async def records(request: Request) -> Records:
    """What the address is about: an imported bundle where it names one, else this installation. Raises ``Problem``."""
    found = parts(request)
    name = request.path_params.get("import_name")
    if name is None:
        return Records(found.log, found.content, found.checkpoints)
    archive = await found.archives.open(name)
    return Records(archive.log, archive.content, archive.checkpoints)
