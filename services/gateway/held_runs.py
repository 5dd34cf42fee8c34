"""Status as it is: a run goes on where somebody holds it now, and is interrupted where nobody does.

The read models tell what the log tells. Whether a run that began and has not ended is under way at this moment, only
its lease says: without one it is shown as ``interrupted``, with since when and after which step. A task that has
nothing else under way is shown so too; one whose run nobody has taken up yet still waits, so it is ``queued``.

While NATS is away nothing is known of leases, and the log's word stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog

from events.errors import CairnError
from infra.ports import RunLease, RunLeases
from projections.queries import ReadModels, Row
from projections.task import StageView

log = structlog.get_logger()

PATIENCE_SECONDS = 1.0
MOST_RUNS = 1000

Held = Mapping[str, RunLease]

_stages = msgspec.json.Decoder(tuple[StageView, ...])


async def held_now(leases: RunLeases) -> Held | None:
    """The leases that are held; None where that cannot be seen."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await leases.held()
    except (CairnError, TimeoutError) as error:
        log.warning("leases unknown", error=str(error))
        return None


def shown_run(run: Row, held: Held | None) -> Row:
    """The row with its present ``status``, its ``lease`` (``runner`` and ``host``, or null), and what an interrupted
    run was ``interrupted`` after."""
    lease = held.get(run["id"]) if held is not None else None
    holder = {"run_id": lease.run_id, "runner": lease.runner, "host": lease.host} if lease is not None else None
    shown = {**run, "lease": holder, "interrupted": None}
    if run["status"] == "running" and held is not None and lease is None:
        after = f"step {run['steps']}" if run["steps"] else "its start"
        shown |= {"status": "interrupted", "interrupted": {"since": run["updated_at"], "after": after}}
    return shown


async def shown_tasks(models: ReadModels, tasks: Sequence[Row], held: Held | None) -> list[Row]:
    """The rows with their present ``status``."""
    if held is None or all(set(_running(task)) <= held.keys() for task in tasks):
        return list(tasks)
    begun = {run["id"] for run in await models.runs(statuses=["running"], limit=MOST_RUNS)}
    return [_shown_task(task, held, begun) for task in tasks]


async def shown_queue(models: ReadModels, queue: Row, held: Held | None) -> Row:
    """The answer with ``interrupted``: the ids of the runs that began and that nobody holds now."""
    if held is None:
        return {**queue, "interrupted": []}
    begun = await models.runs(statuses=["running"], limit=MOST_RUNS)
    return {**queue, "interrupted": [run["id"] for run in begun if run["id"] not in held]}


def _shown_task(task: Row, held: Held, begun: set[str]) -> Row:
    runs = _running(task)
    if not runs or any(run in held for run in runs) or _is_checked(task):
        return task
    left = [run for run in runs if run in begun]
    if left:
        return {**task, "status": "interrupted", "reason": f"nobody holds {', '.join(left)}; it goes on when one does"}
    return {**task, "status": "queued", "reason": f"no worker has taken up {', '.join(runs)} yet"}


def _running(task: Row) -> list[str]:
    """The runs of a task that is under way."""
    if task["status"] != "running":
        return []
    return [stage.run_id for stage in _stages.decode(task["stages"]) if stage.status == "running"]


def _is_checked(task: Row) -> bool:
    return any(stage.status == "checking" for stage in _stages.decode(task["stages"]))


def asked_statuses(statuses: Sequence[str] | None) -> list[Any] | None:
    """What to ask the read models for, to find all tasks that may be shown in one of ``statuses``."""
    if statuses is None:
        return None
    told_as_running = {"interrupted", "queued"} & set(statuses)
    return sorted({*statuses, *(["running"] if told_as_running else [])} - {"interrupted"})
