"""How the whole of it is: what a power failure can take, how much there is to do, who is there and works."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from events import subjects
from events.errors import CairnError
from services.gateway.answers import Json
from services.gateway.held_runs import held_now
from services.gateway.openapi import ONE, TracedRoute
from services.gateway.parts import Parts, parts

# How long a projector that is there may take for what is in the log.
PROJECTED_SECONDS = 1.0

router = APIRouter(prefix="/api/v1", route_class=TracedRoute, tags=["status"])


@router.get("/status", responses=ONE)
async def status(request: Request) -> Response:
    """``durability``: its level, the loss window in seconds (null where nobody knows) and both in a sentence.
    ``queue``: tasks by status. ``breakers``: the credentials that are left alone, each with the cause. ``runs_held``:
    the runs that a living runner holds. ``hosts``: for how many seconds each host has been silent. ``services``:
    whether somebody takes the commands of each service that takes any, and whether the projector brings the read models
    up to the log. ``log``: the last sequence. What cannot be seen at the moment is null; ``unmet`` says why."""
    found = parts(request)
    durability = await found.durability()
    held = await held_now(found.leases)
    return Json(
        {
            "durability": {
                "level": durability.level,
                "loss_window_seconds": durability.loss_window_seconds,
                "replicas": durability.replicas,
                "known_by": durability.known_by,
                "sentence": durability.sentence,
            },
            **await _queue(found),
            "runs_held": None if held is None else sorted(held),
            "hosts": await _hosts(found),
            "services": await _services(found),
            "log": await _log(found),
            "unmet": found.health.unmet(),
        }
    )


async def _queue(found: Parts) -> dict[str, Any]:
    try:
        queue = await (await found.read_models()).queue()
    except CairnError:
        return {"queue": None, "breakers": None}
    breakers = {row["credential"]: row["cause"] for row in queue["breakers"] if row["status"] != "closed"}
    return {"queue": queue["by_status"], "breakers": breakers}


async def _hosts(found: Parts) -> dict[str, float] | None:
    try:
        return {host: round(sign.silent_seconds, 1) for host, sign in sorted((await found.hosts.all()).items())}
    except CairnError:
        return None


async def _services(found: Parts) -> dict[str, bool] | None:
    try:
        services, last = await found.services(), await found.log.last_sequence()
    except CairnError:
        return None
    return {**services, subjects.PROJECTOR: await found.read_model_progress.wait_for(last, PROJECTED_SECONDS)}


async def _log(found: Parts) -> int | None:
    try:
        return await found.log.last_sequence()
    except CairnError:
        return None
