"""Environments in the hands of people: one of their own, calls in one, its composed system, and its removal.

A call is a command like any other, durable and in the log before it begins; the answer waits for its end for a while
and says where to look where that takes longer.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from events import names, subjects, tools
from events.calls import OF_THE_RUNNER
from events.environment import ENVIRONMENT, PrepareEnvironment
from events.errors import Transient
from events.project import PROJECT, ProjectSettings
from events.requests import RemoveEnvironment, RequestCall
from infra.ports import read_content, store_content
from services.gateway import schemas
from services.gateway.answers import Json, Problem
from services.gateway.commands import Wish
from services.gateway.openapi import ACCEPTED, CREATED, ONE, TracedRoute
from services.gateway.parts import parts
from services.gateway.reading import Asked
from services.gateway.routes_commands import API, Key, do
from services.gateway.views import checked_id, content_of, not_found

ENDED = ("completed", "failed", "interrupted")
LOOK_SECONDS = 0.1

router = APIRouter(prefix=API, route_class=TracedRoute, tags=["environments"])

Wait = Annotated[float, Query(ge=0, le=50, description="How long to wait for the end of the call, in seconds.")]


@router.post("/environments", status_code=201, responses=CREATED)
async def create_environment(request: Request, body: schemas.CreateEnvironment, key: Key = None) -> Response:
    """An environment without a task: it is there until it is removed."""
    settings = await _project(request, checked_id(body.project, "project"))
    mark = uuid.uuid4().hex if key is None else hashlib.sha256(f"{request.state.actor}\n{key}".encode()).hexdigest()
    id = f"{settings.prefix}-env-{mark[:16]}"
    prepare = PrepareEnvironment(
        task_id="",
        repository_url=settings.repository.url,
        base_branch=body.base_branch or settings.repository.base_branch,
        secrets=settings.secrets,
        isolation=settings.isolation,
        sandbox=settings.sandbox,
        project=body.project,
    )
    wish = Wish(subjects.ENVIRONMENT_MANAGER, ENVIRONMENT.name, id, prepare)
    return await do(request, wish, key, created=True, look=f"{API}/environments/{id}")


@router.post("/environments/{id}/remove", responses=ACCEPTED)
async def remove_environment(request: Request, id: str, body: schemas.Reason, key: Key = None) -> Response:
    """Everything in it ends and goes, its composed system too; its checkpoints stay."""
    wish = Wish(
        subjects.ENVIRONMENT_MANAGER,
        ENVIRONMENT.name,
        checked_id(id, "environment"),
        RemoveEnvironment(reason=body.reason),
    )
    return await do(request, wish, key, look=f"{API}/environments/{id}")


@router.post("/environments/{id}/calls", responses=ONE)
async def call(
    request: Request, id: str, body: schemas.EnvironmentCall, key: Key = None, wait_seconds: Wait = 25.0
) -> Response:
    """Execute a tool in the environment. Answers with its end, or 202 and where that will show."""
    checked_id(id, "environment")
    text = msgspec.json.encode(body.arguments).decode()
    if tools.find(body.tool) is None or body.tool in (*tools.INTERNAL, *OF_THE_RUNNER):
        usable = (tool.name for tool in (*tools.AGENT_TOOLS, *tools.GROUPED_TOOLS) if tool.name not in OF_THE_RUNNER)
        raise Problem(422, "unknown-tool", f"There is no tool {body.tool!r}; there are {', '.join(usable)}.")
    wrong = tools.check_arguments(body.tool, text)
    if isinstance(wrong, str):
        raise Problem(422, "invalid-arguments", wrong[0].upper() + wrong[1:])
    gateway = parts(request)
    command = RequestCall(tool=body.tool, arguments=await store_content(gateway.content, text))
    wish = Wish(subjects.ENVIRONMENT_MANAGER, ENVIRONMENT.name, id, command)
    asked = await gateway.commands.ask(wish, actor=request.state.actor, key=key)
    outcome = asked.outcome
    if outcome is not None and not outcome.accepted:
        raise Problem(outcome.status if outcome.status >= 400 else 409, outcome.slug or "rejected", outcome.message)
    return await _end(request, id, names.requested_call_id(id, asked.command_id), wait_seconds)


@router.get("/environments/{id}/calls/{call_id}", responses=ONE)
async def call_state(request: Request, id: str, call_id: str, wait_seconds: Wait = 0.0) -> Response:
    """Where a call in the environment stands; 202 while it has no end."""
    checked_id(id, "environment")
    if not checked_id(call_id, "call").startswith(f"{id}-"):
        raise not_found(call_id, "call of this environment")
    return await _end(request, id, call_id, wait_seconds, known=False)


@router.get("/environments/{id}/services", responses=ONE)
async def services(reading: Asked, id: str) -> Response:
    """Its composed system as it was seen last, ``system`` being null where none is up. ``compose_status`` looks now."""
    found = await reading.models.environment(checked_id(id, "environment"))
    if found is None:
        raise not_found(id, "environment")
    return Json(
        {"environment_id": id, "system": found["system"], "seen_at": found["updated_at"]}, headers=reading.headers
    )


async def _end(request: Request, id: str, call_id: str, wait_seconds: float, *, known: bool = True) -> Response:
    """The call as it stands as soon as it has ended, at the latest when the time is over."""
    row = await _ended(request, call_id, wait_seconds)
    if row is None and not known:
        raise not_found(call_id, "call")
    shown: dict[str, Any] = {"id": call_id, "environment_id": id, "state": "requested", **(row or {})}
    shown.pop("call_id", None)
    if row is not None and row["result"] is not None:
        shown["result"] = await read_content(parts(request).content, content_of(row["result"]))
    if shown["state"] in ENDED:
        return Json(shown)
    look = f"{API}/environments/{id}/calls/{call_id}"
    return Json({**shown, "location": look}, 202, {"Location": look, "Retry-After": "1"})


async def _ended(request: Request, call_id: str, wait_seconds: float) -> dict[str, Any] | None:
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_seconds
    while True:
        try:
            row = await (await parts(request).read_models()).call(call_id)
        except Transient:
            row = None  # It goes on without the read models, and shows when they are back.
        if (row is not None and row["state"] in ENDED) or loop.time() >= until:
            return row
        await asyncio.sleep(LOOK_SECONDS)


async def _project(request: Request, name: str) -> ProjectSettings:
    records = await parts(request).log.load(PROJECT.name, name)
    project = PROJECT.fold(name, [event for record in records for event in record.envelope.events])
    if project.settings is None:
        raise not_found(name, "project")
    return project.settings
