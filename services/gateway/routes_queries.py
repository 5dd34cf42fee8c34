"""Queries of the read models in PostgreSQL."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from infra.ports import read_content
from services.gateway.answers import Json
from services.gateway.held_runs import asked_statuses, held_now, shown_queue, shown_run, shown_tasks
from services.gateway.openapi import ONE, PAGE, TEXT, TracedRoute
from services.gateway.reading import Asked, token
from services.gateway.schemas import LARGEST_SEQUENCE
from services.gateway.views import checked_id, content_of, not_found

router = APIRouter(prefix="/api/v1", route_class=TracedRoute, tags=["queries"])

Limit = Annotated[int, Query(ge=1, le=1000)]
After = Annotated[str | None, Query(description="The id of the last one of the page before.")]
Position = Annotated[int, Query(ge=0, le=LARGEST_SEQUENCE, description="The position of the last row seen.")]
TaskStatus = Literal[
    "pending",
    "queued",
    "running",
    "in_review",
    "needs_input",
    "diverged",
    "interrupted",
    "completed",
    "failed",
    "blocked",
    "cancelled",
]
Statuses = Annotated[list[TaskStatus] | None, Query(description="May be given several times.")]
States = Annotated[list[Literal["open", "approved", "merged", "closed"]] | None, Query()]
EnvironmentStatuses = Annotated[
    list[Literal["preparing", "ready", "diverged", "lost", "failed", "removed"]] | None, Query()
]
DeliveryStatuses = Annotated[list[Literal["pending", "delivered", "abandoned"]] | None, Query()]
Channel = Annotated[Literal["in_app", "webhook"] | None, Query()]
Filter = Annotated[str | None, Query()]


@router.get("/projects", responses=PAGE)
async def projects(reading: Asked) -> Response:
    return reading.page(await reading.models.projects(), None)


@router.get("/projects/{id}", responses=ONE)
async def project(reading: Asked, id: str) -> Response:
    return reading.one(await reading.models.project(checked_id(id, "project")), "project", id)


@router.get("/tasks", responses=PAGE)
async def tasks(
    reading: Asked,
    project: Filter = None,
    status: Statuses = None,
    limit: Limit = 100,
    after: After = None,
) -> Response:
    """Newest first."""
    rows = await reading.models.tasks(
        project=token(project, "project"),
        statuses=asked_statuses(status),
        after=token(after, "task"),
        limit=limit,
    )
    shown = await shown_tasks(reading.models, rows, await held_now(reading.parts.leases))
    items = [row for row in shown if status is None or row["status"] in status]
    return Json({"items": items, "next": rows[-1]["id"] if len(rows) == limit else None}, headers=reading.headers)


@router.get("/tasks/{id}", responses=ONE)
async def task(reading: Asked, id: str) -> Response:
    found = await reading.models.task(checked_id(id, "task"))
    if found is not None:
        held = await held_now(reading.parts.leases)
        (found,) = await shown_tasks(reading.models, [found], held)
        found["run_list"] = [shown_run(row, held) for row in found["run_list"]]
        found["durability"] = (await reading.parts.durability()).sentence
    return reading.one(found, "task", id)


@router.get("/tasks/{id}/runs", responses=PAGE)
async def runs_of_task(reading: Asked, id: str) -> Response:
    found = await reading.models.task(checked_id(id, "task"))
    if found is None:
        raise not_found(id, "task")
    held = await held_now(reading.parts.leases)
    return reading.page([shown_run(row, held) for row in found["run_list"]], None)


@router.get("/tasks/{id}/why", responses=ONE)
async def why(reading: Asked, id: str) -> Response:
    """Why a task does not run: everything that stands in its way."""
    explanation = await reading.parts.explainer.explain(checked_id(id, "task"))
    return reading.one(explanation, "task", id)


@router.get("/runs/{id}", responses=ONE)
async def run(reading: Asked, id: str) -> Response:
    found = await reading.models.run(checked_id(id, "run"))
    if found is not None:
        found = shown_run(found, await held_now(reading.parts.leases))
        found["durability"] = (await reading.parts.durability()).sentence
    return reading.one(found, "run", id)


@router.get("/runs/{id}/timeline", responses=PAGE)
async def timeline(reading: Asked, id: str, after: Position = 0, limit: Limit = 1000) -> Response:
    """Every answer of the model, tool call and turn of events of a run, in order."""
    if await reading.models.run(checked_id(id, "run")) is None:
        raise not_found(id, "run")
    return reading.page(await reading.models.timeline(id, after=after, limit=limit), limit, by="position")


@router.get("/queue", responses=ONE)
async def queue(reading: Asked) -> Response:
    """Counts by status, limits, the runs that began and that nobody holds, the breakers of credentials, what each
    worker found out about the programs of agents, and the tasks that changed last."""
    gateway = reading.parts
    answer = {
        **await reading.models.queue(),
        "limits": {"agents_at_once": gateway.agents_at_once},
        "preflight": await gateway.preflights(),
    }
    return Json(await shown_queue(reading.models, answer, await held_now(gateway.leases)), headers=reading.headers)


@router.get("/environments", responses=PAGE)
async def environments(
    reading: Asked,
    task: Filter = None,
    status: EnvironmentStatuses = None,
    limit: Limit = 100,
    after: After = None,
) -> Response:
    rows = await reading.models.environments(
        task=token(task, "task"), statuses=status, after=token(after, "environment"), limit=limit
    )
    return reading.page(rows, limit)


@router.get("/environments/{id}", responses=ONE)
async def environment(reading: Asked, id: str) -> Response:
    return reading.one(await reading.models.environment(checked_id(id, "environment")), "environment", id)


@router.get("/pull-requests", responses=PAGE)
async def pull_requests(
    reading: Asked,
    state: States = None,
    task: Filter = None,
    limit: Limit = 100,
    after: After = None,
) -> Response:
    rows = await reading.models.pull_requests(
        states=state, task=token(task, "task"), after=token(after, "pull request"), limit=limit
    )
    return reading.page(rows, limit)


@router.get("/pull-requests/{id}", responses=ONE)
async def pull_request(reading: Asked, id: str) -> Response:
    return reading.one(await reading.models.pull_request(checked_id(id, "pull request")), "pull request", id)


@router.get("/pull-requests/{id}/diff", responses=TEXT)
async def diff(reading: Asked, id: str) -> Response:
    found = await reading.models.pull_request(checked_id(id, "pull request"))
    if found is None:
        raise not_found(id, "pull request")
    text = await read_content(reading.parts.content, content_of(found["diff"]))
    return Response(
        text, media_type="text/plain; charset=utf-8", headers={**reading.headers, "X-Content-Type-Options": "nosniff"}
    )


@router.get("/deliveries", responses=PAGE)
async def deliveries(
    reading: Asked,
    channel: Channel = None,
    status: DeliveryStatuses = None,
    limit: Limit = 100,
    after: After = None,
) -> Response:
    rows = await reading.models.deliveries(
        channel=channel, statuses=status, after=token(after, "delivery"), limit=limit
    )
    return reading.page(rows, limit)
