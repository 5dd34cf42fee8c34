"""Imported bundles: kept as files, read-only, never put into this installation's log.

::

    <home>/imports/<name>/bundle.zip         the bundle as it came
    <home>/imports/<name>/checkpoints.git    its checkpoints, unpacked

A folder gets its name when it is complete and checked. A bundle keeps the sequences and ids of the log that it comes
from, and nothing here knows them but the reads under ``/imports``: so nothing can be scheduled from it, and the log
of this installation holds only what happened here. To remove an import, remove its folder.

Limits: an open bundle's decisions are in memory (the last few that were asked for); with several gateways, a bundle
is where it was imported.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from infra.ports import ContentStore, EventLog
from services.gateway.answers import Problem
from services.gateway.archived import ArchivedCheckpoints, ArchivedContent, ArchivedLog, unpack_checkpoints
from services.gateway.bundle import Bundle, BundleUnusable, Manifest
from services.gateway.ports import Checkpoints

OPEN_ARCHIVES = 4
BUNDLE_FILE = "bundle.zip"
CHECKPOINTS_FOLDER = "checkpoints.git"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}\Z")


@dataclass(frozen=True)
class Archive:
    log: EventLog
    content: ContentStore
    checkpoints: Checkpoints


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """``decisions`` counts those of all its entities; ``missing`` says what the bundle lacks."""

    name: str
    run: str
    task: str
    tenant: str
    cairn: str
    exported_at: str
    decisions: int
    missing: tuple[str, ...]


class Archives:
    """Every method raises ``Problem``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, Archive] = OrderedDict()

    async def add(self, chunks: AsyncIterator[bytes], name: str) -> Imported:
        """Keep a bundle under ``name``, its run's id where that is empty. The same bundle again changes nothing."""
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True, mode=0o700)
        scratch = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=".partial-", dir=self._folder))
        try:
            file = scratch / BUNDLE_FILE
            with file.open("wb") as out:
                async for chunk in chunks:
                    await asyncio.to_thread(out.write, chunk)
            return await asyncio.to_thread(self._keep, scratch, name)
        except BundleUnusable as error:
            raise Problem(422, "bundle-unusable", _sentence(str(error))) from error
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    def _keep(self, scratch: Path, name: str) -> Imported:
        bundle = Bundle(scratch / BUNDLE_FILE)
        decisions = bundle.check()
        unpack_checkpoints(bundle, scratch / CHECKPOINTS_FOLDER)
        name = name or bundle.manifest.run
        place = self._place(name)
        if place.is_dir():
            if _digest(place / BUNDLE_FILE) != _digest(scratch / BUNDLE_FILE):
                detail = f"Another bundle is imported as {name!r}: choose another name, or remove {place}."
                raise Problem(409, "name-taken", detail)
        else:
            scratch.rename(place)
        return _described(name, bundle.manifest, decisions)

    async def open(self, name: str) -> Archive:
        if name not in self._open:
            place = self._place(name)
            if not (place / BUNDLE_FILE).is_file():
                detail = f"Nothing is imported as {name!r}."
                raise Problem(404, "not-found", detail)
            try:
                self._open[name] = await asyncio.to_thread(_archive, place)
            except BundleUnusable as error:
                raise Problem(500, "bundle-unusable", _sentence(str(error))) from error
            if len(self._open) > OPEN_ARCHIVES:
                self._open.popitem(last=False)
        self._open.move_to_end(name)
        return self._open[name]

    def list(self) -> list[Imported]:
        """What is imported; what cannot be read any more is left out."""
        found = []
        for place in sorted(self._folder.glob(f"*/{BUNDLE_FILE}")):
            try:
                bundle = Bundle(place)
                found.append(_described(place.parent.name, bundle.manifest, len(bundle.records())))
            except BundleUnusable:
                continue
        return [item for item in found if _NAME.match(item.name)]

    def _place(self, name: str) -> Path:
        if not _NAME.match(name):
            detail = f"{name!r} cannot name an import: use up to 200 letters, digits, '-' and '_'."
            raise Problem(422, "invalid", detail)
        return self._folder / name


def _archive(place: Path) -> Archive:
    bundle = Bundle(place / BUNDLE_FILE)
    return Archive(
        ArchivedLog(bundle), ArchivedContent(bundle), ArchivedCheckpoints(place / CHECKPOINTS_FOLDER, bundle.manifest)
    )


def _described(name: str, manifest: Manifest, decisions: int) -> Imported:
    return Imported(
        name=name,
        run=manifest.run,
        task=manifest.task,
        tenant=manifest.tenant,
        cairn=manifest.cairn,
        exported_at=manifest.exported_at.isoformat(),
        decisions=decisions,
        missing=manifest.missing,
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
