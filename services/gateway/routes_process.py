"""The process itself: health, readiness, metrics, and where everything is. No key is needed here."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from services.gateway.answers import Json
from services.gateway.openapi import ONE, TEXT
from services.gateway.parts import parts

router = APIRouter(tags=["process"])

_LINKS = {
    "name": "cairn",
    "api": "/api/v1",
    "openapi": "/openapi.json",
    "health": "/health",
    "ready": "/ready",
    "metrics": "/metrics",
}


@router.get("/", responses=ONE)
async def index() -> Response:
    return Json(_LINKS)


@router.get("/health", responses=ONE)
async def health() -> Response:
    """200 as long as the process answers."""
    return Json({"status": "ok", "service": "gateway"})


@router.get("/ready", responses=ONE)
async def ready(request: Request) -> Response:
    """503 with the reasons where the gateway cannot do its work."""
    unmet = parts(request).health.unmet()
    return Json({"status": "not ready" if unmet else "ready", "unmet": unmet}, 503 if unmet else 200)


@router.get("/metrics", responses=TEXT)
async def metrics() -> Response:
    """In Prometheus's text format."""
    from infra import metrics  # prometheus_client is slow to import and often never asked.

    return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)
