"""Queries of the read models in PostgreSQL.

Every answer carries ``Cairn-Sequence``: the read models held at least the log up to there when they were asked.
``?wait_for=SEQUENCE`` reads your own writes: the answer comes as soon as the read models hold that decision, and is a
problem (503, ``behind``) where they do not within five seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from infra.ports import read_content
from projections.queries import ReadModels, Row
from services.gateway.answers import Json, unavailable
from services.gateway.held_runs import asked_statuses, held_now, shown_queue, shown_run, shown_tasks
from services.gateway.openapi import ONE, PAGE, TEXT, TracedRoute
from services.gateway.parts import parts
from services.gateway.schemas import LARGEST_SEQUENCE
from services.gateway.views import checked_id, content_of, not_found

WAIT_SECONDS = 5.0

router = APIRouter(prefix="/api/v1", route_class=TracedRoute, tags=["queries"])

WaitFor = Annotated[
    int, Query(ge=0, le=LARGEST_SEQUENCE, description="Answer only with what holds this decision of the log.")
]
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
async def projects(request: Request, wait_for: WaitFor = 0) -> Response:
    models, at = await models_at(request, wait_for)
    return page(await models.projects(), None, at)


@router.get("/projects/{id}", responses=ONE)
async def project(request: Request, id: str, wait_for: WaitFor = 0) -> Response:
    models, at = await models_at(request, wait_for)
    return one(await models.project(checked_id(id, "project")), "project", id, at)


@router.get("/tasks", responses=PAGE)
async def tasks(
    request: Request,
    project: Filter = None,
    status: Statuses = None,
    limit: Limit = 100,
    after: After = None,
    wait_for: WaitFor = 0,
) -> Response:
    """Newest first."""
    models, at = await models_at(request, wait_for)
    rows = await models.tasks(
        project=token(project, "project"),
        statuses=asked_statuses(status),
        after=token(after, "task"),
        limit=limit,
    )
    shown = await shown_tasks(models, rows, await held_now(parts(request).leases))
    items = [row for row in shown if status is None or row["status"] in status]
    return Json({"items": items, "next": rows[-1]["id"] if len(rows) == limit else None}, headers=at)


@router.get("/tasks/{id}", responses=ONE)
async def task(request: Request, id: str, wait_for: WaitFor = 0) -> Response:
    models, at = await models_at(request, wait_for)
    found = await models.task(checked_id(id, "task"))
    if found is not None:
        held = await held_now(parts(request).leases)
        (found,) = await shown_tasks(models, [found], held)
        found["run_list"] = [shown_run(row, held) for row in found["run_list"]]
        found["durability"] = (await parts(request).durability()).sentence
    return one(found, "task", id, at)


@router.get("/tasks/{id}/runs", responses=PAGE)
async def runs_of_task(request: Request, id: str, wait_for: WaitFor = 0) -> Response:
    models, at = await models_at(request, wait_for)
    found = await models.task(checked_id(id, "task"))
    if found is None:
        raise not_found(id, "task")
    held = await held_now(parts(request).leases)
    return page([shown_run(row, held) for row in found["run_list"]], None, at)


@router.get("/tasks/{id}/why", responses=ONE)
async def why(request: Request, id: str, wait_for: WaitFor = 0) -> Response:
    """Why a task does not run: everything that stands in its way."""
    _, at = await models_at(request, wait_for)
    explanation = await parts(request).explainer.explain(checked_id(id, "task"))
    return one(explanation, "task", id, at)


@router.get("/runs/{id}", responses=ONE)
async def run(request: Request, id: str, wait_for: WaitFor = 0) -> Response:
    models, at = await models_at(request, wait_for)
    found = await models.run(checked_id(id, "run"))
    if found is not None:
        found = shown_run(found, await held_now(parts(request).leases))
        found["durability"] = (await parts(request).durability()).sentence
    return one(found, "run", id, at)


@router.get("/runs/{id}/timeline", responses=PAGE)
async def timeline(
    request: Request, id: str, after: Position = 0, limit: Limit = 1000, wait_for: WaitFor = 0
) -> Response:
    """Every answer of the model, tool call and turn of events of a run, in order."""
    models, at = await models_at(request, wait_for)
    if await models.run(checked_id(id, "run")) is None:
        raise not_found(id, "run")
    return page(await models.timeline(id, after=after, limit=limit), limit, at, by="position")


@router.get("/queue", responses=ONE)
async def queue(request: Request, wait_for: WaitFor = 0) -> Response:
    """Counts by status, limits, the runs that began and that nobody holds, the breakers of credentials, what each
    worker found out about the programs of agents, and the tasks that changed last."""
    models, at = await models_at(request, wait_for)
    gateway = parts(request)
    answer = {
        **await models.queue(),
        "limits": {"agents_at_once": gateway.agents_at_once},
        "preflight": await gateway.preflights(),
    }
    return Json(await shown_queue(models, answer, await held_now(gateway.leases)), headers=at)


@router.get("/environments", responses=PAGE)
async def environments(
    request: Request,
    task: Filter = None,
    status: EnvironmentStatuses = None,
    limit: Limit = 100,
    after: After = None,
    wait_for: WaitFor = 0,
) -> Response:
    models, at = await models_at(request, wait_for)
    rows = await models.environments(
        task=token(task, "task"), statuses=status, after=token(after, "environment"), limit=limit
    )
    return page(rows, limit, at)


@router.get("/environments/{id}", responses=ONE)
async def environment(request: Request, id: str, wait_for: WaitFor = 0) -> Response:
    models, at = await models_at(request, wait_for)
    return one(await models.environment(checked_id(id, "environment")), "environment", id, at)


@router.get("/pull-requests", responses=PAGE)
async def pull_requests(
    request: Request,
    state: States = None,
    task: Filter = None,
    limit: Limit = 100,
    after: After = None,
    wait_for: WaitFor = 0,
) -> Response:
    models, at = await models_at(request, wait_for)
    rows = await models.pull_requests(
        states=state, task=token(task, "task"), after=token(after, "pull request"), limit=limit
    )
    return page(rows, limit, at)


@router.get("/pull-requests/{id}", responses=ONE)
async def pull_request(request: Request, id: str, wait_for: WaitFor = 0) -> Response:
    models, at = await models_at(request, wait_for)
    return one(await models.pull_request(checked_id(id, "pull request")), "pull request", id, at)


@router.get("/pull-requests/{id}/diff", responses=TEXT)
async def diff(request: Request, id: str, wait_for: WaitFor = 0) -> Response:
    models, at = await models_at(request, wait_for)
    found = await models.pull_request(checked_id(id, "pull request"))
    if found is None:
        raise not_found(id, "pull request")
    text = await read_content(parts(request).content, content_of(found["diff"]))
    return Response(text, media_type="text/plain; charset=utf-8", headers={**at, "X-Content-Type-Options": "nosniff"})


@router.get("/deliveries", responses=PAGE)
async def deliveries(
    request: Request,
    channel: Channel = None,
    status: DeliveryStatuses = None,
    limit: Limit = 100,
    after: After = None,
    wait_for: WaitFor = 0,
) -> Response:
    models, at = await models_at(request, wait_for)
    rows = await models.deliveries(channel=channel, statuses=status, after=token(after, "delivery"), limit=limit)
    return page(rows, limit, at)


async def models_at(request: Request, wait_for: int) -> tuple[ReadModels, dict[str, str]]:
    """The read models, once they hold ``wait_for``, and the header that says how far they are."""
    gateway = parts(request)
    models = await gateway.read_models()
    progress = gateway.read_model_progress
    if not await progress.wait_for(wait_for, WAIT_SECONDS):
        detail = (
            f"The read models are at {progress.sequence} of the log and did not reach {wait_for} within "
            f"{WAIT_SECONDS:.0f} s. Ask again, or without wait_for for what is there; does the projector run?"
        )
        raise unavailable(detail, "behind")
    return models, {"Cairn-Sequence": str(progress.sequence)}


def token(value: str | None, what: str) -> str | None:
    return None if value is None else checked_id(value, what)


def one(found: Any, what: str, id: str, headers: dict[str, str]) -> Response:
    if found is None:
        raise not_found(id, what)
    return Json(found, headers=headers)


def page(rows: list[Row], limit: int | None, headers: dict[str, str], *, by: str = "id") -> Response:
    more = limit is not None and len(rows) == limit
    return Json({"items": rows, "next": rows[-1][by] if more else None}, headers=headers)
