"""Live views: server-sent events of the log and of what runs print (``sse``, ``output_stream``)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from services.gateway import selection
from services.gateway.openapi import STREAM, TracedRoute
from services.gateway.parts import parts
from services.gateway.progress import task_of
from services.gateway.routes_queries import Filter
from services.gateway.schemas import LARGEST_SEQUENCE
from services.gateway.sse import requested_after
from services.gateway.views import checked_id, not_found

router = APIRouter(prefix="/api/v1", route_class=TracedRoute, tags=["live"])

After = Annotated[
    int | None,
    Query(ge=0, le=LARGEST_SEQUENCE, description="Begin after this event; `Last-Event-ID` goes before it."),
]

Follow = Annotated[bool, Query(description="`false`: end after what there is now, instead of with the run.")]


@router.get("/board/stream", responses=STREAM)
async def board_stream(request: Request, after: After = None) -> Response:
    """What changes on the board: decisions of projects, tasks, pull requests and deliveries. From now on, unless
    ``after`` says otherwise."""
    wanted = selection.everything(selection.BOARD)
    return await parts(request).event_streams.open(wanted, after=requested_after(request, after))


@router.get("/events/stream", responses=STREAM)
async def events_stream(
    request: Request,
    entity: Filter = None,
    id: Filter = None,
    task: Filter = None,
    run: Filter = None,
    environment: Filter = None,
    after: After = None,
) -> Response:
    """Decisions as they are made, selected as by ``/events``. From now on, unless ``after`` says otherwise."""
    wanted = selection.selected(entity=entity, id=id, task_id=task, run_id=run, environment_id=environment)
    return await parts(request).event_streams.open(wanted, after=requested_after(request, after))


@router.get("/runs/{id}/stream", responses=STREAM)
async def run_stream(request: Request, id: str, after: After = 0) -> Response:
    """A run from its beginning, and what concerns it in its environment."""
    gateway = parts(request)
    if await task_of(gateway.log, checked_id(id, "run")) is None:
        raise not_found(id, "run")
    return await gateway.event_streams.open(selection.run(id), after=requested_after(request, after))


@router.get("/runs/{id}/output/stream", responses=STREAM)
async def output_stream(request: Request, id: str, after: After = 0, follow: Follow = True) -> Response:
    """What a run, or a gate's check, prints: from its beginning to ``event: end``."""
    begin = requested_after(request, after) or 0
    return await parts(request).output_streams.open(checked_id(id, "run"), after=begin, follow=follow)
