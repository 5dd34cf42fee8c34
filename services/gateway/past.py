"""The past: what things were at a sequence of the log or a time, folded from the log."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from datetime import datetime
from typing import Any

import msgspec

from events.envelope import Recorded
from events.environment import ENVIRONMENT, Environment
from events.kernel import Event
from events.project import PROJECT
from events.run import RUN, RunStarted
from events.task_state import TASK, Task
from infra.ports import EventLog
from services.gateway import selection
from services.gateway.answers import Problem
from services.gateway.views import checked_id, not_found

Moment = int | datetime | None


class RunMoment(msgspec.Struct, frozen=True, kw_only=True):
    """A run at its last step up to some moment; ``sequence`` is that step.

    ``checkpoint`` is what its workspace was after the step, ``before`` what it was before it, ``first`` what the run
    began with; empty where there was no workspace. ``environment`` is the present one, which tells where they lie.
    """

    task_id: str
    sequence: int
    first: str
    before: str
    checkpoint: str
    environment: Environment


def moment(at: str | None) -> Moment:
    """A sequence, a time with its zone, or None for the present. Raises ``Problem``."""
    if at is None:
        return None
    if at.isascii() and at.isdigit() and len(at) < 20:
        return int(at)
    try:
        found = msgspec.convert(at.replace(" ", "+"), datetime)
    except msgspec.ValidationError:
        found = None
    if found is None or found.tzinfo is None:
        detail = f"`at` is {at!r}; it can be a sequence (4711) or a time with its zone (2026-05-01T12:00:00Z)."
        raise Problem(422, "invalid", detail)
    return found


def is_past(record: Recorded, until: Moment) -> bool:
    if until is None:
        return True
    return record.sequence <= until if isinstance(until, int) else record.envelope.time <= until


def up_to(records: list[Recorded], at: str | None, what: str) -> list[Recorded]:
    """Those of an entity that had happened at ``at``. Raises ``Problem`` where it did not exist yet."""
    until = moment(at)
    past = [record for record in records if is_past(record, until)]
    if not past:
        first = records[0]
        detail = (
            f"{what} did not exist yet at {at}: it began with {first.sequence} at {first.envelope.time.isoformat()}."
        )
        raise Problem(404, "not-yet", detail)
    return past


async def run_at(log: EventLog, id: str, at: str | None) -> RunMoment:
    """Raises ``Problem`` for a run that does not exist, or did not yet."""
    run = await log.load(RUN.name, checked_id(id, "run"))
    if not run:
        raise not_found(id, "run")
    up_to(run, at, f"run {id!r}")
    started = next((event for event in _events(run) if isinstance(event, RunStarted)), None)
    environment_id = started.environment_id if started is not None else selection.environment_of(id)
    environment = await log.load(ENVIRONMENT.name, environment_id)
    until, concerns = moment(at), selection.run(id).matches
    step = max(record.sequence for record in (*run, *environment) if concerns(record) and is_past(record, until))

    def then(sequence: int) -> str:
        past = [record for record in environment if record.sequence <= sequence]
        return ENVIRONMENT.fold(environment_id, _events(past)).checkpoint

    now = ENVIRONMENT.fold(environment_id, _events(environment))
    first = then(run[0].sequence) or (now.prepared.commit if now.prepared is not None else "")
    return RunMoment(
        task_id=started.task_id if started is not None else "",
        sequence=step,
        first=first,
        before=then(step - 1),
        checkpoint=then(step),
        environment=now,
    )


async def board_at(log: EventLog, at: str | None) -> dict[str, Any]:
    """Every project and task as they were: ids, statuses, and where each stage of each task stood."""
    until = moment(at)
    tasks: dict[str, Task] = {}
    projects: set[str] = set()
    last: Recorded | None = None
    end = until if isinstance(until, int) else None
    async with aclosing(log.replay(until=end, entities=(PROJECT.name, TASK.name))) as batches:  # type: ignore[type-var]
        async for batch in batches:
            for record in batch:
                if not is_past(record, until):
                    continue
                last, id = record, record.envelope.entity_id
                if record.envelope.entity == TASK.name:
                    tasks[id] = TASK.fold_onto(tasks.get(id) or TASK.initial(id), record.envelope.events)
                else:
                    projects.add(id)
    shown = [_task(task) for task in tasks.values() if task.submitted is not None]
    return {
        "sequence": last.sequence if last is not None else 0,
        "time": last.envelope.time if last is not None else None,
        "projects": sorted(projects),
        "by_status": dict(Counter(task["status"] for task in shown)),
        "tasks": shown,
    }


def _task(task: Task) -> dict[str, Any]:
    assert task.submitted is not None
    return {
        "id": task.id,
        "project": task.submitted.specification.project,
        "title": task.submitted.specification.title,
        "status": task.status,
        "stages": {name: type(stage.position).__name__.lower() for name, stage in task.stages.items()},
        "forked_from": task.submitted.forked_from,
    }


def _events(records: list[Recorded]) -> list[Event]:
    return [event for record in records for event in record.envelope.events]
