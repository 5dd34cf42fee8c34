"""The OpenAPI document: what FastAPI derives, with our problems, our key and the answers of commands."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.responses import Response

from infra import semantics, telemetry

_PROBLEM = {
    "type": "object",
    "description": "What went wrong (RFC 9457). `detail` says what to do; `slug` names the kind for programs.",
    "required": ["type", "title", "status", "detail", "slug"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "slug": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}
_PROBLEM_EXAMPLE = {
    "type": "urn:cairn:problem:not-found",
    "title": "Not found",
    "status": 404,
    "detail": "There is no task 'shop-99'.",
    "slug": "not-found",
}
_ACCEPTED = {
    "type": "object",
    "description": "The decision that a command led to. `sequence` is good for `?wait_for=`.",
    "required": ["id", "outcome"],
    "properties": {
        "id": {"type": "string"},
        "entity": {"type": "string"},
        "entity_id": {"type": "string", "description": "The same as `id`."},
        "outcome": {"enum": ["accepted", "resent"]},
        "sequence": {"type": "integer"},
        "events": {"type": "array", "items": {"type": "string"}},
        "command_id": {"type": "string"},
        "detail": {"type": "string", "description": "A remark for a person, where there is one."},
    },
}
_PENDING = {
    "type": "object",
    "description": "What became of the command is not known yet; `location` is where it will show.",
    "required": ["outcome", "command_id", "location", "detail"],
    "properties": {
        "outcome": {"const": "pending"},
        "command_id": {"type": "string"},
        "location": {"type": "string"},
        "detail": {"type": "string"},
    },
}
_PAGE = {
    "type": "object",
    "description": "`next` is what to give as `after` for the page that follows; null on the last one.",
    "required": ["items", "next"],
    "properties": {
        "items": {"type": "array", "items": {"type": "object"}},
        "next": {"type": ["string", "integer", "null"]},
    },
}

Responses = dict[int | str, dict[str, Any]]


def _json(schema: str, example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    if example is not None:
        content["example"] = example
    return {"application/json": content}


_DONE = {"id": "shop-7", "entity": "task", "entity_id": "shop-7", "outcome": "accepted", "sequence": 4711}
_PENDING_ANSWER = {"description": "Not known yet", "content": _json("Pending")}
ACCEPTED: Responses = {
    200: {"description": "Accepted", "content": _json("Accepted", _DONE)},
    202: _PENDING_ANSWER,
}
CREATED: Responses = {
    201: {
        "description": "Made; `Location` names it",
        "content": _json("Accepted", _DONE),
        "headers": {"Location": {"schema": {"type": "string"}}},
    },
    202: _PENDING_ANSWER,
}
PAGE: Responses = {200: {"description": "A page", "content": _json("Page")}}
ONE: Responses = {200: {"description": "What was asked for", "content": {"application/json": {"schema": {}}}}}
STREAM: Responses = {
    200: {
        "description": "Server-sent events; an event's id is good for `Last-Event-ID`",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
TEXT: Responses = {200: {"description": "Text", "content": {"text/plain": {"schema": {"type": "string"}}}}}
ARCHIVE: Responses = {200: {"description": "An archive", "content": {"application/gzip": {}, "application/zip": {}}}}


class TracedRoute(APIRoute):
    """A route whose work is a span: the root of a trace, or the continuation of the caller's ``traceparent``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        name = f"{min(self.methods or ('GET',))} {self.path_format}"

        async def traced(request: Request) -> Response:
            parent = telemetry.valid_trace(request.headers.get("traceparent"))
            with telemetry.span(name, kind=semantics.SERVER, trace=parent):
                return await handle(request)

        return traced


def build(app: FastAPI) -> dict[str, Any]:
    """The document of ``app``: each operation answers its errors with problems and, under ``/api/``, needs a key."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas |= {"Problem": _PROBLEM, "Accepted": _ACCEPTED, "Pending": _PENDING, "Page": _PAGE}
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}}
    problem = {
        "description": "A problem",
        "content": {
            "application/problem+json": {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": _PROBLEM_EXAMPLE,
            }
        },
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = problem
            if path.startswith("/api/"):
                operation["security"] = [{"key": []}]
    return document
