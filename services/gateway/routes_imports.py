"""Bundles of runs: out of this installation, and into it to be looked at."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathParameter
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from services.gateway.answers import Json
from services.gateway.exporting import export
from services.gateway.openapi import ARCHIVE, ONE, PAGE, TracedRoute
from services.gateway.parts import parts, records

IMPORTS = "/api/v1/imports"

router = APIRouter(prefix="/api/v1", route_class=TracedRoute, tags=["bundles"])


def named(import_name: Annotated[str, PathParameter(description="The name of an imported bundle.")]) -> None:
    """Declares the parameter that all addresses of an import share."""


@router.get("/runs/{id}/bundle", responses=ARCHIVE)
async def bundle(request: Request, id: str) -> Response:
    """A run with all that is needed to look at it elsewhere: a zip archive."""
    folder = await asyncio.to_thread(tempfile.TemporaryDirectory, prefix="cairn-export-")
    try:
        path = Path(folder.name) / "bundle.zip"
        found = await records(request)
        await export(found, id, path, version=request.app.version, now=datetime.now(UTC))
    except BaseException:
        folder.cleanup()
        raise
    done = BackgroundTask(folder.cleanup)
    return FileResponse(path, media_type="application/zip", filename=f"{id}.cairn.zip", background=done)


@router.get("/imports", responses=PAGE)
async def imports(request: Request) -> Response:
    """The bundles that were imported here."""
    return Json({"items": await asyncio.to_thread(parts(request).archives.list), "next": None})


@router.post("/imports", status_code=201, responses=ONE)
async def add_import(
    request: Request,
    name: Annotated[str, Query(description="To be known by; the run's id where it is left out.")] = "",
) -> Response:
    """Keep a bundle (the body) to be looked at. It gets no part in this installation's log or work."""
    imported = await parts(request).archives.add(request.stream(), name)
    return Json(imported, 201, {"Location": f"{IMPORTS}/{imported.name}/events"})
