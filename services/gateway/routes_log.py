"""Reads of the log itself: decisions, states as they were, dead letters, content. Nothing here changes anything."""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from events.catalogue import ENTITIES
from events.envelope import Recorded
from infra.ports import DeadLetter
from services.gateway.answers import Json, Problem
from services.gateway.openapi import ONE, PAGE, TEXT, TracedRoute
from services.gateway.parts import parts
from services.gateway.routes_queries import Filter, Limit, Position
from services.gateway.schemas import Sequence
from services.gateway.selection import selected
from services.gateway.views import checked_entity, checked_id, not_found, view

router = APIRouter(prefix="/api/v1", route_class=TracedRoute, tags=["log"])

Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="Hex SHA-256 of the content.")]
Moment = Annotated[
    str | None,
    Query(
        description="A sequence of the log or a time (RFC 3339); the present where it is left out.",
        examples=["4711", "2026-05-01T12:00:00Z"],
    ),
]


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
    async with aclosing(selection.history(parts(request).log, after=after)) as batches:
        async for batch in batches:
            found += batch
            if len(found) > limit:
                break
    following = found[limit - 1].sequence if len(found) > limit else None
    return Json({"items": [view(record) for record in found[:limit]], "next": following})


@router.get("/replay/{entity}/{id}", responses=ONE)
async def replay(request: Request, entity: str, id: str, at: Moment = None) -> Response:
    """An entity as it was: its state folded from the log up to ``at``."""
    kind = ENTITIES[checked_entity(entity)]
    records = await parts(request).log.load(kind.name, checked_id(id, entity))
    if not records:
        raise not_found(id, entity)
    until = _moment(at)
    past = [record for record in records if _is_past(record, until)]
    if not past:
        first = records[0]
        detail = (
            f"{entity} {id!r} did not exist yet at {at}: it began with {first.sequence} at "
            f"{first.envelope.time.isoformat()}."
        )
        raise Problem(404, "not-yet", detail)
    state = kind.fold(id, (event for record in past for event in record.envelope.events))
    return Json(
        {
            "entity": kind.name,
            "id": id,
            "sequence": past[-1].sequence,
            "time": past[-1].envelope.time,
            "decisions": len(past),
            "later_decisions": len(records) - len(past),
            "status": getattr(state, "status", getattr(state, "state", "")),
            "state": state,
        }
    )


@router.get("/dead-letters", responses=PAGE)
async def dead_letters(request: Request, after: Position = 0, limit: Limit = 100) -> Response:
    letters = await parts(request).dead_letters.list(after=after, limit=limit)
    following = letters[-1].sequence if len(letters) == limit else None
    return Json({"items": [_letter(letter) for letter in letters], "next": following})


@router.get("/dead-letters/{sequence}", responses=ONE)
async def dead_letter(request: Request, sequence: Sequence) -> Response:
    letter = await parts(request).dead_letters.get(sequence)
    if letter is None:
        raise not_found(str(sequence), "dead letter")
    return Json(_letter(letter))


@router.get("/content/{digest}", responses=TEXT)
async def content(request: Request, digest: Digest) -> Response:
    """A payload that an event only names: text where it is UTF-8, else bytes."""
    data = await parts(request).content.get(digest)
    if data is None:
        raise not_found(digest, "content")
    try:
        data.decode()
        kind = "text/plain; charset=utf-8"
    except UnicodeDecodeError:
        kind = "application/octet-stream"
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, max-age=31536000, immutable"}
    return Response(data, media_type=kind, headers=headers)


def _moment(at: str | None) -> int | datetime | None:
    if at is None:
        return None
    if at.isascii() and at.isdigit() and len(at) < 20:
        return int(at)
    try:
        moment = msgspec.convert(at.replace(" ", "+"), datetime)
    except msgspec.ValidationError:
        moment = None
    if moment is None or moment.tzinfo is None:
        detail = f"`at` is {at!r}; it can be a sequence (4711) or a time with its zone (2026-05-01T12:00:00Z)."
        raise Problem(422, "invalid", detail)
    return moment


def _is_past(record: Recorded, until: int | datetime | None) -> bool:
    if until is None:
        return True
    return record.sequence <= until if isinstance(until, int) else record.envelope.time <= until


def _letter(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter with the command in it, as JSON where it is JSON, else as text."""
    fields = msgspec.structs.asdict(letter)
    data: bytes = fields.pop("data")
    try:
        fields["command"] = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        fields["command"] = data.decode(errors="replace")
    return fields
