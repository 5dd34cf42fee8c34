"""Reads of the log itself: decisions, states and workspaces as they were, content. Nothing here changes anything.

The same addresses stand under ``/api/v1`` for this installation and under ``/api/v1/imports/{import_name}`` for a
bundle that was imported: that is all that can be done with one.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from events.catalogue import ENTITIES
from events.envelope import Recorded
from services.gateway import past
from services.gateway.answers import Json, Problem
from services.gateway.openapi import ARCHIVE, ONE, PAGE, TEXT, TracedRoute
from services.gateway.parts import records
from services.gateway.routes_queries import Filter, Limit, Position
from services.gateway.schemas import LARGEST_SEQUENCE
from services.gateway.selection import selected
from services.gateway.views import checked_entity, checked_id, not_found, view

router = APIRouter(route_class=TracedRoute, tags=["log"])

Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="Hex SHA-256 of the content.")]
Moment = Annotated[
    str | None,
    Query(
        description="A sequence of the log or a time (RFC 3339); the present where it is left out.",
        examples=["4711", "2026-05-01T12:00:00Z"],
    ),
]
Since = Annotated[
    int | None,
    Query(
        ge=0,
        le=LARGEST_SEQUENCE,
        description="Show what changed after this sequence, 0 for all that the run changed; else the one step.",
    ),
]

_NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}


@router.get("/events", responses=PAGE)
async def events(
    request: Request,
    entity: Filter = None,
    id: Filter = None,
    task: Filter = None,
    run: Filter = None,
    environment: Filter = None,
    after: Position = 0,
    limit: Limit = 100,
) -> Response:
    """Decisions in the order of the log. ``task`` also selects what was done for the task: its runs, environments and
    pull request; ``run`` also what concerns it in its environment."""
    selection = selected(entity=entity, id=id, task_id=task, run_id=run, environment_id=environment)
    found: list[Recorded] = []
    async with aclosing(selection.history((await records(request)).log, after=after)) as batches:
        async for batch in batches:
            found += batch
            if len(found) > limit:
                break
    following = found[limit - 1].sequence if len(found) > limit else None
    return Json({"items": [view(record) for record in found[:limit]], "next": following})


@router.get("/replay/board", responses=ONE)
async def replay_board(request: Request, at: Moment = None) -> Response:
    """Every task as it was: its status, and where each of its stages stood."""
    return Json(await past.board_at((await records(request)).log, at))


@router.get("/runs/{id}/workspace", responses=ARCHIVE)
async def workspace(request: Request, id: str, at: Moment = None) -> Response:
    """A run's workspace as it was after its last step up to ``at``: a tar archive, compressed with gzip."""
    found = await records(request)
    then = await past.run_at(found.log, id, at)
    if not then.checkpoint:
        detail = f"Run {id!r} had no workspace yet at {then.sequence}: choose a later step."
        raise Problem(404, "no-checkpoint-yet", detail)
    data = await found.checkpoints.pack(then.environment, then.checkpoint)
    headers = {"Content-Disposition": f'attachment; filename="{id}-{then.sequence}.tar.gz"'}
    return Response(data, media_type="application/gzip", headers=headers | _at(then))


@router.get("/runs/{id}/diff", responses=TEXT)
async def diff(request: Request, id: str, at: Moment = None, since: Since = None) -> Response:
    """What a run's last step up to ``at`` changed in its workspace, or all steps after ``since``: a unified diff."""
    found = await records(request)
    then = await past.run_at(found.log, id, at)
    older = then.before
    if since is not None:
        older = (await past.run_at(found.log, id, str(since))).checkpoint if since else then.first
    older, newer = older or then.first, then.checkpoint
    changed = bool(newer) and older != newer
    data = await found.checkpoints.diff(then.environment, older, newer) if changed else b""
    return Response(data, media_type="text/plain; charset=utf-8", headers=_NO_SNIFFING | _at(then))


def _at(then: past.RunMoment) -> dict[str, str]:
    return {"Cairn-Step": str(then.sequence), "Cairn-Checkpoint": then.checkpoint}


@router.get("/replay/{entity}/{id}", responses=ONE)
async def replay(request: Request, entity: str, id: str, at: Moment = None) -> Response:
    """An entity as it was: its state folded from the log up to ``at``."""
    kind = ENTITIES[checked_entity(entity)]
    found = await (await records(request)).log.load(kind.name, checked_id(id, entity))
    if not found:
        raise not_found(id, entity)
    then = past.up_to(found, at, f"{entity} {id!r}")
    state = kind.fold(id, (event for record in then for event in record.envelope.events))
    return Json(
        {
            "entity": kind.name,
            "id": id,
            "sequence": then[-1].sequence,
            "time": then[-1].envelope.time,
            "decisions": len(then),
            "later_decisions": len(found) - len(then),
            "status": getattr(state, "status", getattr(state, "state", "")),
            "state": state,
        }
    )


@router.get("/content/{digest}", responses=TEXT)
async def content(request: Request, digest: Digest) -> Response:
    """A payload that an event only names: text where it is UTF-8, else bytes."""
    data = await (await records(request)).content.get(digest)
    if data is None:
        raise not_found(digest, "content")
    try:
        data.decode()
        kind = "text/plain; charset=utf-8"
    except UnicodeDecodeError:
        kind = "application/octet-stream"
    headers = _NO_SNIFFING | {"Cache-Control": "private, max-age=31536000, immutable"}
    return Response(data, media_type=kind, headers=headers)
