"""What the routes work with, put together once in ``__main__`` (or a test)."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from infra.health import Health
from infra.ports import ContentStore, DeadLetters, EventLog
from services.gateway.commands import Commands
from services.gateway.output_stream import OutputStreams
from services.gateway.ports import Explainer, OpenReadModels, ReadModelProgress
from services.gateway.sse import EventStreams


@dataclass(frozen=True, kw_only=True)
class Parts:
    commands: Commands
    log: EventLog
    content: ContentStore
    dead_letters: DeadLetters
    read_models: OpenReadModels
    read_model_progress: ReadModelProgress
    explainer: Explainer
    event_streams: EventStreams
    output_streams: OutputStreams
    health: Health


def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found
