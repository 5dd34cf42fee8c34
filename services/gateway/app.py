"""The application: routes, problems, the edge around them, and an OpenAPI document that needs no network."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import Depends, FastAPI

from infra.api_keys import ApiKeys
from services.gateway import (
    answers,
    openapi,
    routes_chaos,
    routes_commands,
    routes_environments,
    routes_imports,
    routes_log,
    routes_past,
    routes_process,
    routes_queries,
    routes_status,
    routes_streams,
)
from services.gateway.edge import Edge
from services.gateway.parts import Parts

DESCRIPTION = (
    "Commands in, queries and live views out. Every command answers with what became of it, or 202 and where that will "
    "show. Every error is a problem (RFC 9457). Live views are server-sent events that go on after `Last-Event-ID`."
)


def make_app(parts: Parts, keys: ApiKeys, *, max_body_bytes: int) -> Edge:
    """The ASGI application. Telemetry is ours (``openapi.TracedRoute``), so that FastAPI's own stays off."""
    app = FastAPI(
        title="Cairn",
        version=_version(),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.parts = parts
    answers.install(app)
    for module in (
        routes_process,
        routes_streams,
        routes_log,
        routes_imports,
        routes_queries,
        routes_status,
        routes_commands,
        routes_environments,
        routes_chaos,
    ):
        app.include_router(module.router)
    app.include_router(routes_past.router, prefix="/api/v1")
    named = [Depends(routes_imports.named)]
    app.include_router(routes_past.router, prefix="/api/v1/imports/{import_name}", dependencies=named)
    document: dict[str, Any] = {}

    def described() -> dict[str, Any]:
        if not document:
            document.update(openapi.build(app))
        return document

    app.openapi = described  # type: ignore[method-assign]
    return Edge(app, keys=keys, max_body_bytes=max_body_bytes)


def _version() -> str:
    try:
        return version("cairn")
    except PackageNotFoundError:
        return "0"
