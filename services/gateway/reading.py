"""One query of the read models in PostgreSQL, and its answer.

Every answer carries ``Cairn-Sequence``: the read models held at least the log up to there when they were asked.
``?wait_for=SEQUENCE`` reads your own writes: the answer comes as soon as the read models hold that decision, and is a
problem (503, ``behind``) where they do not within five seconds.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Request
from starlette.responses import Response

from projections.queries import ReadModels, Row
from services.gateway.answers import Json, unavailable
from services.gateway.parts import Parts, parts
from services.gateway.schemas import LARGEST_SEQUENCE
from services.gateway.views import checked_id, not_found

WAIT_SECONDS = 5.0

WaitFor = Annotated[
    int, Query(ge=0, le=LARGEST_SEQUENCE, description="Answer only with what holds this decision of the log.")
]


class Reading:
    """``models`` as a query meets them; ``headers`` say how far they are."""

    def __init__(self, parts: Parts, models: ReadModels) -> None:
        self.parts = parts
        self.models = models
        self.headers = {"Cairn-Sequence": str(parts.read_model_progress.sequence)}

    def one(self, found: Any, what: str, id: str) -> Response:
        """What was found, else 404."""
        if found is None:
            raise not_found(id, what)
        return Json(found, headers=self.headers)

    def page(self, rows: list[Row], limit: int | None, *, by: str = "id") -> Response:
        """``next`` is where the next page begins, null where there is none."""
        more = limit is not None and len(rows) == limit
        return Json({"items": rows, "next": rows[-1][by] if more else None}, headers=self.headers)


async def _read(request: Request, wait_for: WaitFor = 0) -> Reading:
    gateway = parts(request)
    models = await gateway.read_models()
    progress = gateway.read_model_progress
    if not await progress.wait_for(wait_for, WAIT_SECONDS):
        detail = (
            f"The read models are at {progress.sequence} of the log and did not reach {wait_for} within "
            f"{WAIT_SECONDS:.0f} s. Ask again, or without wait_for for what is there; does the projector run?"
        )
        raise unavailable(detail, "behind")
    return Reading(gateway, models)


Asked = Annotated[Reading, Depends(_read)]


def token(value: str | None, what: str) -> str | None:
    return None if value is None else checked_id(value, what)
