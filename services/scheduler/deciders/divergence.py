"""What may be said about a run that diverged: it is reported, and a person chooses what follows."""

from __future__ import annotations

from events.divergence import CHOICES
from events.errors import CommandRejected, Invalid
from events.kernel import Event
from events.task import DivergenceReported, DivergenceResolved, ReportDivergence, ResolveDivergence
from events.task_state import Running, Task
from services.scheduler.deciders.task import existing

Events = tuple[Event, ...]


class NoOpenDivergence(CommandRejected):
    """Nothing of the task waits for that choice."""

    slug = "no-open-divergence"


def report(task: Task, command: ReportDivergence) -> Events:
    known = any(item.reported.divergence_id == command.divergence_id for item in task.divergences)
    if (
        known
        or task.ended is not None
        or all(state.position != Running(command.run_id) for state in task.stages.values())
    ):
        return ()
    return (
        DivergenceReported(
            run_id=command.run_id,
            divergence_id=command.divergence_id,
            kind=command.kind,
            expected=command.expected,
            found=command.found,
            diff=command.diff,
        ),
    )


def resolve(task: Task, command: ResolveDivergence, *, by: str) -> Events:
    """What a person chose. The run that waits for it carries it out."""
    open = waiting(task, command)
    if open is None:
        return ()
    return (DivergenceResolved(run_id=open.run_id, divergence_id=open.divergence_id, choice=command.choice, by=by),)


def waiting(task: Task, command: ResolveDivergence) -> DivergenceReported | None:
    """The divergence that the command is about; None where it was chosen before. Raises ``CommandRejected``."""
    existing(task)
    if command.choice not in CHOICES:
        message = f"{command.choice!r} is no way out of a divergence; there are {', '.join(CHOICES)}."
        raise Invalid(message, slug="unknown-choice")
    named = [item for item in task.divergences if command.run_id in ("", item.reported.run_id)]
    open = [item.reported for item in named if not item.choice]
    if len(open) > 1:
        runs = ", ".join(item.run_id for item in open)
        message = f"several runs of task {task.id} have diverged: say which one is meant ({runs})."
        raise Invalid(message)
    if open:
        return open[0]
    if named and named[-1].choice == command.choice:
        return None
    of = f"run {command.run_id}" if command.run_id else f"task {task.id}"
    message = f"{of} waits for no choice: it has not diverged, or that is settled."
    raise NoOpenDivergence(message)
