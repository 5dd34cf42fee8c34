"""Where a fork begins: a step of a run, found in the log.

Read-only: what is found is put into the new task's first event, so that whoever reads the log needs nothing else.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from events.agents import Agent, ProgramAgent
from events.envelope import Recorded
from events.environment import ENVIRONMENT
from events.errors import Invalid, NotFound
from events.kernel import Entity, Event
from events.lineage import ForkedFrom
from events.run import RUN, RunStarted
from events.task import ForkRun
from events.task_state import TASK, Task
from infra.ports import EventLog

S = TypeVar("S")


class Source(msgspec.Struct, frozen=True):
    """The point that a fork starts from, and the source's task as it was then. ``under_way`` are the tools whose calls
    may have changed the workspace since its checkpoint."""

    point: ForkedFrom
    task: Task
    under_way: tuple[str, ...] = ()


async def find_source(log: EventLog, task_id: str, command: ForkRun) -> Source:
    """Raises ``NotFound`` for a run that the task has not had, ``Invalid`` for a step that nothing can go on from."""
    run = await log.load(RUN.name, command.run_id)
    started = next((event for event in _events(run) if isinstance(event, RunStarted)), None)
    if started is None or started.task_id != task_id:
        message = f"task {task_id} has had no run {command.run_id!r} that began."
        raise NotFound(message, slug="run-not-found")
    if command.sequence < run[0].sequence:
        message = (
            f"run {command.run_id} began with {run[0].sequence}, so there is nothing at {command.sequence}: "
            f"choose {run[0].sequence} or a later one."
        )
        raise Invalid(message, slug="before-the-beginning")
    environment = await log.load(ENVIRONMENT.name, started.environment_id)
    then = _folded(ENVIRONMENT, started.environment_id, environment, command.sequence)
    now = ENVIRONMENT.fold(started.environment_id, _events(environment))
    if not then.checkpoint or now.prepared is None:
        first = next((record.sequence for record in environment if record.sequence > command.sequence), None)
        later = f": choose {first} or a later one." if first is not None else "."
        message = f"the workspace of run {command.run_id} did not stand yet at {command.sequence}{later}"
        raise Invalid(message, slug="no-checkpoint-yet")
    point = ForkedFrom(
        run_id=command.run_id,
        # What comes later, in a run that goes on, is no part of the fork.
        sequence=max(record.sequence for record in (*run, *environment) if record.sequence <= command.sequence),
        stage=started.stage,
        environment_id=started.environment_id,
        commit=then.checkpoint,
        host=now.host or now.prepared.host,
        prompt=command.prompt,
    )
    return Source(
        point,
        _folded(TASK, task_id, await log.load(TASK.name, task_id), command.sequence),
        tuple(call.tool for call in then.running.values() if call.effects != "none"),
    )


def left_behind(source: Source, agent: Agent | None) -> str:
    """What of the source the fork does not go on with, for whoever asked for it; empty where that is nothing."""
    said = []
    if isinstance(agent, ProgramAgent):
        said.append(
            "Its agent is a program, which takes over no conversation: it starts anew, is told the whole task, and "
            "finds the workspace as it was."
        )
    if source.under_way:
        tools = " and ".join(source.under_way)
        said.append(f"What {tools} had changed by then is not in the workspace: checkpoints are taken after calls.")
    return " ".join(said)


def _events(records: list[Recorded]) -> list[Event]:
    return [event for record in records for event in record.envelope.events]


def _folded(entity: Entity[S], id: str, records: list[Recorded], until: int) -> S:
    return entity.fold(id, _events([record for record in records if record.sequence <= until]))
