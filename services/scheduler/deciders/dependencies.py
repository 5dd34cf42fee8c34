"""What a task begins from that depends on others: where the work of each of them is to be found. Pure.

A task's work is that of the agents which no other agent's stage goes on from. What was published is a branch of the
remote, with what people added to it there. What was not is a checkpoint, which is kept for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from events.names import branch_name
from events.pipeline import PullRequestGate
from events.task_state import Passed, Task


class Base(msgspec.Struct, frozen=True):
    """A branch, or a commit that the environment ``source`` made."""

    name: str
    source: str = ""


def bases(tasks: Iterable[Task]) -> list[Base]:
    """Where the works of these tasks are, each once."""
    return list(dict.fromkeys(base for task in tasks for base in _bases(task)))


def _bases(task: Task) -> Iterator[Base]:
    if task.submitted is None:
        return
    pipeline = task.submitted.pipeline
    needed = {need for stage in pipeline.stages for need in stage.needs}
    published = {
        pipeline.worker(stage.name)
        for stage in pipeline.stages
        if isinstance(stage.gate, PullRequestGate) and isinstance(task.stages[stage.name].position, Passed)
    }
    for last in pipeline.stages:
        worker = pipeline.worker(last.name)
        if last.name in needed or not worker:
            continue
        work = task.stages[worker].result
        if worker in published:
            yield Base(branch_name(task.id))
        elif work.commit:
            yield Base(work.commit, work.environment_id)
