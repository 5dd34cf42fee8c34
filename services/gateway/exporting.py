"""Collects what a bundle of a run holds: the run, what it was forked from, their content and checkpoints."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

from events.envelope import Recorded
from events.environment import ENVIRONMENT
from events.errors import CommandRejected, Transient
from events.run import RUN, RunStarted
from events.task_state import TASK
from services.gateway import bundle
from services.gateway.parts import Records
from services.gateway.views import checked_id, not_found


async def export(records: Records, run_id: str, path: Path, *, version: str, now: datetime) -> None:
    """Write the bundle of a run. What cannot be had (a host that is away, content that is gone) is left out, and the
    manifest says so. Raises ``Problem`` for a run that never began."""
    found: dict[int, Recorded] = {}
    files: dict[str, bytes] = {}
    missing: list[str] = []
    wanted: str | None = checked_id(run_id, "run")
    first: RunStarted | None = None
    while wanted is not None:
        run = await records.log.load(RUN.name, wanted)
        started = next((event for item in run for event in item.envelope.events if isinstance(event, RunStarted)), None)
        if started is None:
            raise not_found(wanted, "run that began")
        first = first or started
        environment = await records.log.load(ENVIRONMENT.name, started.environment_id)
        for item in (*run, *environment, *await records.log.load(TASK.name, started.task_id)):
            found[item.sequence] = item
        await _add_checkpoints(records, started.environment_id, environment, files, missing)
        wanted = started.forked_from.run_id if started.forked_from is not None else None
    assert first is not None
    for digest in sorted(bundle.contents_of(found.values())):
        data = await records.content.get(digest)
        if data is None:
            missing.append(f"content {digest} is not in the store any more")
        else:
            files[f"content/{digest}"] = data
    manifest = bundle.Manifest(
        format=bundle.FORMAT,
        schema=bundle.SCHEMA,
        cairn=version,
        tenant=records.log.tenant,
        run=run_id,
        task=first.task_id,
        exported_at=now,
        missing=tuple(missing),
    )
    await asyncio.to_thread(bundle.write, path, manifest, list(found.values()), files)


async def _add_checkpoints(
    records: Records, id: str, history: list[Recorded], files: dict[str, bytes], missing: list[str]
) -> None:
    environment = ENVIRONMENT.fold(id, (event for record in history for event in record.envelope.events))
    name = f"checkpoints/{id}.bundle"
    if environment.prepared is None or name in files:
        return
    try:
        files[name] = await records.checkpoints.bundle(environment)
    except (CommandRejected, Transient) as error:
        missing.append(f"the checkpoints of {id}: {error}")
