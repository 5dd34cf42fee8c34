"""What a forked run inherits: the records of the runs it goes on from, each up to where it was left."""

from __future__ import annotations

from events.envelope import Recorded
from events.environment import ENVIRONMENT
from events.lineage import ForkedFrom
from events.run import RUN, RunStarted
from infra.ports import EventLog


async def ancestors(log: EventLog, forked_from: ForkedFrom | None) -> list[Recorded]:
    """The records of the source run and its environment up to the fork, before them those of its own source, and so
    on: in the order in which they tell the conversation. Empty for a run that is no fork. Raises ``Transient``."""
    generations: list[list[Recorded]] = []
    while forked_from is not None:
        until = forked_from.sequence
        run = await log.load(RUN.name, forked_from.run_id)
        environment = await log.load(ENVIRONMENT.name, forked_from.environment_id)
        past = [record for record in (*run, *environment) if record.sequence <= until]
        generations.append(sorted(past, key=lambda record: record.sequence))
        forked_from = next(
            (event.forked_from for record in run for event in record.envelope.events if isinstance(event, RunStarted)),
            None,
        )
    return [record for generation in reversed(generations) for record in generation]
