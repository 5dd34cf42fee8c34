"""All projections at once: a batch of decisions in, the rows that changed out. Pure, no database.

``Rows`` are the entity rows that the batch touches, as they are now; ``fold`` brings them up to date in place and
answers with ``Changes``. The rows themselves are frozen values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from events.envelope import Recorded
from events.task import RunRequested
from events.task_state import TASK
from projections.breaker import BREAKERS
from projections.delivery import DELIVERIES
from projections.environment import ENVIRONMENTS
from projections.experiment import CHAOS_ROWS, EXPERIMENTS
from projections.project import PROJECTS
from projections.projection import Projection
from projections.pull_request import PULL_REQUESTS
from projections.run import RUNS
from projections.task import TASKS
from projections.timeline import CALL_STATES, ENTRIES, POSITIONS_OF_A_DECISION, CallState, Entry, microseconds

Row = Any

BY_ENTITY: dict[str, Projection[Any]] = {
    "project": PROJECTS,
    "task": TASKS,
    "breaker": BREAKERS,
    "run": RUNS,
    "environment": ENVIRONMENTS,
    "pull_request": PULL_REQUESTS,
    "delivery": DELIVERIES,
    "experiment": EXPERIMENTS,
    "chaos": CHAOS_ROWS,
}
PROJECTIONS: tuple[Projection[Any], ...] = tuple(BY_ENTITY.values())

# The rows of one table by id; None where it is known that there is none.
Rows = dict[Projection[Any], dict[str, Row | None]]


class Changes(msgspec.Struct):
    """What a batch changed: entity rows as they are now, new rows of the append-only tables."""

    sequence: int = 0
    rows: dict[Any, dict[str, Row]] = {}
    entries: list[Entry] = []
    call_states: list[CallState] = []


def touched(record: Recorded) -> Sequence[tuple[Projection[Any], str]]:
    """The entity rows that a decision may change: its own entity's, and what a run's request announces."""
    envelope = record.envelope
    own = BY_ENTITY.get(envelope.entity)
    if own is None:
        return ()
    if envelope.entity != TASK.name:
        return ((own, envelope.entity_id),)
    rows = [(own, envelope.entity_id)]
    for event in envelope.events:
        if isinstance(event, RunRequested):
            rows += ((RUNS, event.run_id), (ENVIRONMENTS, event.environment_id))
    return rows


def missing(rows: Rows, records: Iterable[Recorded]) -> dict[Projection[Any], set[str]]:
    """The rows that ``records`` touch and ``rows`` does not know."""
    found: dict[Projection[Any], set[str]] = {}
    for record in records:
        for projection, id in touched(record):
            if id not in rows[projection]:
                found.setdefault(projection, set()).add(id)
    return found


def fold(rows: Rows, records: Sequence[Recorded]) -> Changes:
    """Fold ``records``, which come in the log's order. ``rows`` must know every row that they touch."""
    changes = Changes()
    for record in records:
        for projection, id in touched(record):
            known = rows[projection]
            before = known[id]
            after = projection.project(id, before, record)
            if after is not before:
                known[id] = after
                changes.rows.setdefault(projection, {})[id] = after
        _append(changes, record)
        changes.sequence = record.sequence
    return changes


def _append(changes: Changes, record: Recorded) -> None:
    envelope, sequence = record.envelope, record.sequence
    at = microseconds(envelope.time)
    for index, event in enumerate(envelope.events):
        kind = type(event)
        entry_of = ENTRIES.get(kind)
        if entry_of is not None:
            position = sequence * POSITIONS_OF_A_DECISION + index
            changes.entries.append(entry_of(envelope.entity_id, position, event, at))
        state_of = CALL_STATES.get(kind)
        if state_of is not None:
            changes.call_states.append(state_of(sequence, event, at))
