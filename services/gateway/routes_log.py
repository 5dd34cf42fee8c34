"""Dead letters: commands that could not be handled. Reading them changes nothing."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from infra.ports import DeadLetter
from services.gateway.answers import Json
from services.gateway.openapi import ONE, PAGE, TracedRoute
from services.gateway.parts import parts
from services.gateway.routes_queries import Limit, Position
from services.gateway.schemas import Sequence
from services.gateway.views import not_found

router = APIRouter(prefix="/api/v1", route_class=TracedRoute, tags=["log"])


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


def _letter(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter with the command in it, as JSON where it is JSON, else as text."""
    fields = msgspec.structs.asdict(letter)
    data: bytes = fields.pop("data")
    try:
        fields["command"] = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        fields["command"] = data.decode(errors="replace")
    return fields
