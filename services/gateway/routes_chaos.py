"""Experiments and chaos as a whole: begin, look, abort, halt, resume."""

from __future__ import annotations

import hashlib
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from events import subjects
from events.chaos import CHAOS, HALT, HaltChaos, ResumeChaos
from events.environment import ENVIRONMENT
from events.experiment import COMPOSE_TARGET, EXPERIMENT, AbortExperiment, Experiment
from projections.journal import journal
from services.gateway import schemas
from services.gateway.answers import Json, Problem
from services.gateway.commands import Wish
from services.gateway.openapi import ACCEPTED, CREATED, ONE, PAGE, TracedRoute
from services.gateway.parts import parts
from services.gateway.reading import Asked, token
from services.gateway.routes_commands import API, Key, do
from services.gateway.routes_queries import After, Filter, Limit
from services.gateway.views import checked_id, not_found

router = APIRouter(prefix=API, route_class=TracedRoute, tags=["chaos"])

ExperimentStatuses = Annotated[
    list[
        Literal[
            "checked",
            "validated",
            "injecting",
            "observing",
            "reverted",
            "aborting",
            "completed",
            "deviated",
            "aborted",
            "refused",
        ]
    ]
    | None,
    Query(),
]


@router.post("/experiments", status_code=201, responses=CREATED)
async def run_experiment(request: Request, body: schemas.RunExperiment, key: Key = None) -> Response:
    """Begin an experiment, or with ``dry_run`` only check it and find its containers. One that may not be is a problem,
    and is kept with its reason."""
    id = _id_of(request.state.actor, key)
    target = body.target if body.target.startswith(COMPOSE_TARGET) else checked_id(body.target, "environment")
    host = await _host_of(request, target, body.host)
    wish = Wish(subjects.CHAOS, EXPERIMENT.name, id, body.command(), host)
    return await do(request, wish, key, look=f"{API}/experiments/{id}", created=True)


@router.get("/experiments", responses=PAGE)
async def experiments(
    reading: Asked,
    target: Filter = None,
    status: ExperimentStatuses = None,
    limit: Limit = 100,
    after: After = None,
) -> Response:
    """Newest first."""
    rows = await reading.models.experiments(
        target=target, statuses=status, after=token(after, "experiment"), limit=limit
    )
    return reading.page(rows, limit)


@router.get("/experiments/{id}", responses=ONE)
async def experiment(reading: Asked, id: str) -> Response:
    return reading.one(await reading.models.experiment(checked_id(id, "experiment")), "experiment", id)


@router.get("/experiments/{id}/journal", responses=ONE)
async def experiment_journal(request: Request, id: str) -> Response:
    """In the shape of the Chaos Toolkit's journals, from the log."""
    records = await parts(request).log.load(EXPERIMENT.name, checked_id(id, "experiment"))
    if not records:
        raise not_found(id, "experiment")
    return Json(journal(id, records))


@router.post("/experiments/{id}/abort", responses=ACCEPTED)
async def abort_experiment(request: Request, id: str, body: schemas.Reason, key: Key = None) -> Response:
    """Everything is undone now."""
    state = await _experiment(request, id)
    assert state.requested is not None
    wish = Wish(subjects.CHAOS, EXPERIMENT.name, id, AbortExperiment(reason=body.reason), state.requested.host)
    return await do(request, wish, key, look=f"{API}/experiments/{id}")


@router.post("/chaos/halt", responses=ACCEPTED)
async def halt_chaos(request: Request, body: schemas.Reason, key: Key = None) -> Response:
    """Abort every experiment on every host, and let none begin."""
    wish = Wish(subjects.CHAOS, CHAOS.name, HALT, HaltChaos(reason=body.reason))
    return await do(request, wish, key, look=f"{API}/chaos")


@router.post("/chaos/resume", responses=ACCEPTED)
async def resume_chaos(request: Request, body: schemas.Reason, key: Key = None) -> Response:
    wish = Wish(subjects.CHAOS, CHAOS.name, HALT, ResumeChaos(reason=body.reason))
    return await do(request, wish, key, look=f"{API}/chaos")


@router.get("/chaos", responses=ONE)
async def chaos(reading: Asked) -> Response:
    """Whether chaos is halted, and for every host each kind of fault with why it cannot be done there, if so."""
    rows = await reading.models.chaos()
    halt: dict[str, Any] = next((row for row in rows if row["id"] == HALT), {})
    hosts = [{"host": row["host"], "faults": row["faults"], "at": row["updated_at"]} for row in rows if row["host"]]
    halted = bool(halt.get("halted"))
    body = {
        "halted": halted,
        "halted_by": halt.get("halted_by", ""),
        "reason": halt.get("reason", "") if halted else "",
        "hosts": hosts,
    }
    return Json(body, headers=reading.headers)


def _id_of(actor: str, key: str | None) -> str:
    """The same request sent again with its key is the same experiment."""
    unique = hashlib.sha256(f"{actor}\n{key}".encode()).hexdigest() if key else uuid.uuid4().hex
    return f"experiment-{unique[:12]}"


async def _host_of(request: Request, target: str, asked: str) -> str:
    """Where the target's containers are. Raises ``Problem``."""
    found = parts(request)
    if target.startswith(COMPOSE_TARGET):
        if asked:
            return checked_id(asked, "host")
        living = sorted(await found.hosts.all())
        if len(living) == 1:
            return living[0]
        known = ", ".join(living) or "none is there"
        detail = f"Say on which host {target} is with `host`: {known}."
        raise Problem(422 if living else 503, "host-needed", detail)
    records = await found.log.load(ENVIRONMENT.name, target)
    environment = ENVIRONMENT.fold(target, [event for record in records for event in record.envelope.events])
    if environment.prepared is None:
        raise not_found(target, "environment")
    return environment.host


async def _experiment(request: Request, id: str) -> Experiment:
    records = await parts(request).log.load(EXPERIMENT.name, checked_id(id, "experiment"))
    state = EXPERIMENT.fold(id, [event for record in records for event in record.envelope.events])
    if state.requested is None:
        raise not_found(id, "experiment")
    return state
