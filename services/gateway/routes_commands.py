"""Commands: what people want done. Each answers with what became of it."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from starlette.responses import Response

from events import subjects
from events.kernel import Command
from events.names import checked_name
from events.project import PROJECT
from events.pull_request import PULL_REQUEST, ClosePullRequest, MergePullRequest
from events.task import ApproveStage, CancelTask, RejectStage, RetryTask
from events.task_state import TASK
from services.gateway import past, schemas
from services.gateway.answers import Json, Problem
from services.gateway.commands import Asked, Wish
from services.gateway.openapi import ACCEPTED, CREATED, TracedRoute
from services.gateway.parts import parts, records
from services.gateway.ports import HostSilent
from services.gateway.views import checked_id, not_found

API = "/api/v1"

router = APIRouter(prefix=API, route_class=TracedRoute, tags=["commands"])

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Send the same key with the same request again, and it is done once.",
        examples=["0b1f6c1e-6c0b-4d55-9a4f-6f0f7c1d2e3a"],
    ),
]


@router.post("/projects", status_code=201, responses=CREATED)
async def add_project(request: Request, body: schemas.AddProject, key: Key = None) -> Response:
    name = checked_name(body.name, "project")
    wish = Wish(subjects.SCHEDULER, PROJECT.name, name, body.command())
    return await do(request, wish, key, created=True, look=f"{API}/projects/{name}")


@router.post("/projects/{project}/tasks", status_code=201, responses=CREATED)
async def submit_task(request: Request, project: str, body: schemas.SubmitTask, key: Key = None) -> Response:
    """The scheduler gives the task its id, which the answer and ``Location`` name."""
    checked_id(project, "project")
    wish = Wish(subjects.SCHEDULER, PROJECT.name, project, body.command(project))
    return await do(request, wish, key, created=True, look=f"{API}/tasks?project={project}")


@router.post("/tasks/{id}/cancel", responses=ACCEPTED)
async def cancel_task(request: Request, id: str, body: schemas.Reason, key: Key = None) -> Response:
    return await _task(request, id, CancelTask(reason=body.reason), key)


@router.post("/tasks/{id}/retry", responses=ACCEPTED)
async def retry_task(request: Request, id: str, key: Key = None) -> Response:
    """Failed, blocked and cancelled stages start again, with their attempts counted from zero."""
    return await _task(request, id, RetryTask(), key)


@router.post("/tasks/{id}/answer", responses=ACCEPTED)
async def answer_question(request: Request, id: str, body: schemas.Answer, key: Key = None) -> Response:
    return await _task(request, id, body.command(), key)


@router.post("/tasks/{id}/divergence", responses=ACCEPTED)
async def resolve_divergence(request: Request, id: str, body: schemas.Choice, key: Key = None) -> Response:
    """Choose what holds where a run found the world other than the log tells; the run carries it out."""
    return await _task(request, id, body.command(), key)


@router.post("/tasks/{id}/stages/{stage}/approve", responses=ACCEPTED)
async def approve_stage(request: Request, id: str, stage: str, key: Key = None) -> Response:
    return await _task(request, id, ApproveStage(stage=stage), key)


@router.post("/tasks/{id}/stages/{stage}/reject", responses=ACCEPTED)
async def reject_stage(
    request: Request, id: str, stage: str, body: schemas.RequiredReason, key: Key = None
) -> Response:
    return await _task(request, id, RejectStage(stage=stage, reason=body.reason), key)


@router.post("/runs/{id}/fork", status_code=201, responses=CREATED)
async def fork_run(request: Request, id: str, body: schemas.ForkRun, key: Key = None) -> Response:
    """A new task that goes on from a step of a run, with its conversation and its workspace up to there. `detail` says
    what it does not go on with: a program takes over no conversation."""
    found = await records(request)
    run = await past.run_at(found.log, id, None)
    then = await past.run_at(found.log, id, str(body.at))
    if then.checkpoint:
        with contextlib.suppress(HostSilent):  # Then the new task's own run finds out.
            await found.checkpoints.check(run.environment, then.checkpoint)
    wish = Wish(subjects.SCHEDULER, TASK.name, run.task_id, body.command(id))
    return await do(request, wish, key, created=True, look=f"{API}/tasks")


@router.post("/pull-requests/{id}/approve", responses=ACCEPTED)
async def approve_pull_request(request: Request, id: str, body: schemas.Comment, key: Key = None) -> Response:
    return await _pull_request(request, id, body.command(), key)


@router.post("/pull-requests/{id}/merge", responses=ACCEPTED)
async def merge_pull_request(request: Request, id: str, key: Key = None) -> Response:
    return await _pull_request(request, id, MergePullRequest(), key)


@router.post("/pull-requests/{id}/close", responses=ACCEPTED)
async def close_pull_request(request: Request, id: str, body: schemas.Reason, key: Key = None) -> Response:
    return await _pull_request(request, id, ClosePullRequest(reason=body.reason), key)


@router.post("/dead-letters/{sequence}/resend", responses=ACCEPTED)
async def resend_dead_letter(request: Request, sequence: schemas.Sequence) -> Response:
    """Publish it to its subject again; it is no dead letter any more."""
    letter = await parts(request).dead_letters.resend(sequence)
    if letter is None:
        raise not_found(str(sequence), "dead letter")
    return Json({"id": str(sequence), "outcome": "resent", "subject": letter.subject, "service": letter.service})


async def _task(request: Request, id: str, command: Command, key: str | None) -> Response:
    wish = Wish(subjects.SCHEDULER, TASK.name, checked_id(id, "task"), command)
    return await do(request, wish, key, look=f"{API}/tasks/{id}")


async def _pull_request(request: Request, id: str, command: Command, key: str | None) -> Response:
    wish = Wish(subjects.ENVIRONMENT_MANAGER, PULL_REQUEST.name, checked_id(id, "pull request"), command)
    return await do(request, wish, key, look=f"{API}/pull-requests/{id}")


async def do(request: Request, wish: Wish, key: str | None, *, look: str, created: bool = False) -> Response:
    """Send the wish and answer with its outcome; ``look`` is where it will show if that is not known yet."""
    asked = await parts(request).commands.ask(wish, actor=request.state.actor, key=key)
    outcome = asked.outcome
    if outcome is None:
        return _pending(asked, look)
    if not outcome.accepted:
        raise Problem(outcome.status if outcome.status >= 400 else 409, outcome.slug or "rejected", outcome.message)
    body: dict[str, Any] = {
        "id": outcome.entity_id,
        "entity": outcome.entity,
        "entity_id": outcome.entity_id,
        "outcome": "accepted",
        "sequence": outcome.sequence,
        "events": outcome.events,
        "command_id": asked.command_id,
    }
    if outcome.message:
        body["detail"] = outcome.message
    if not created:
        return Json(body)
    return Json(body, 201, {"Location": f"{API}/{outcome.entity}s/{outcome.entity_id}"})


def _pending(asked: Asked, look: str) -> Response:
    detail = (
        "The command is kept safely, but what became of it is not known yet: the service that decides it is busy or "
        f"away. It will be done once that is back; {look} shows it then."
    )
    body = {"outcome": "pending", "command_id": asked.command_id, "location": look, "detail": detail}
    return Json(body, 202, {"Location": look, "Retry-After": "1"})
