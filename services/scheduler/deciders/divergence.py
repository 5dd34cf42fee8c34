"""What may be said about a run that diverged: it is reported, and a person chooses what follows."""

from __future__ import annotations

from events.divergence import ASK, CHOICES
from events.errors import CommandRejected, Invalid
from events.kernel import Event
from events.names import run_id
from events.task import (
    CheckRequested,
    DivergenceReported,
    DivergenceResolved,
    ReportDivergence,
    ResolveDivergence,
    TaskBlocked,
)
from events.task_state import Checking, Running, Task
from services.scheduler.deciders.task import existing

Events = tuple[Event, ...]


class NoOpenDivergence(CommandRejected):
    """Nothing of the task waits for that choice."""

    slug = "no-open-divergence"


def report(task: Task, command: ReportDivergence) -> Events:
    """A run or a gate's check waits. Of a run its runner follows the policy, for a check it is followed here."""
    known = any(item.reported.divergence_id == command.divergence_id for item in task.divergences)
    positions = (Running(command.run_id), Checking(command.run_id))
    waits = any(state.position in positions for state in task.stages.values())
    if known or task.ended is not None or task.submitted is None or not waits:
        return ()
    reported = DivergenceReported(
        run_id=command.run_id,
        divergence_id=command.divergence_id,
        kind=command.kind,
        expected=command.expected,
        found=command.found,
        diff=command.diff,
    )
    policy = task.submitted.on_divergence
    if policy == ASK or not isinstance(task.requests.get(command.run_id), CheckRequested):
        return (reported,)
    return (reported, *_chosen(task, reported, policy, by="policy"))


def resolve(task: Task, command: ResolveDivergence, *, by: str) -> Events:
    """What a person chose. The run that waits for it carries it out."""
    open = waiting(task, command)
    if open is None:
        return ()
    return _chosen(task, open, command.choice, by=by)


def _chosen(task: Task, open: DivergenceReported, choice: str, *, by: str) -> Events:
    """The run that waits carries it out; a gate whose workspace is given up blocks its task."""
    resolved = DivergenceResolved(run_id=open.run_id, divergence_id=open.divergence_id, choice=choice, by=by)
    check = task.requests.get(open.run_id)
    if not isinstance(check, CheckRequested) or choice in ("restore", "accept"):
        return (resolved,)
    detail = f"the {open.kind} of {check.environment_id} had diverged and was given up by {by or 'somebody'}"
    return (resolved, TaskBlocked(stage=check.stage, cause="diverged", detail=detail))


def run_to_fork(task: Task, open: DivergenceReported) -> str:
    """The run that a fork goes on from: the one that waits, or the one whose work the gate that waits looks at."""
    check = task.requests.get(open.run_id)
    if not isinstance(check, CheckRequested) or task.submitted is None:
        return open.run_id
    worker = task.submitted.pipeline.worker(check.stage)
    attempt = task.stages[worker].attempt if worker else 0
    if not attempt:
        message = f"stage {check.stage!r} of task {task.id} checks no work of its own: restore, accept or abandon it."
        raise Invalid(message, slug="nothing-to-fork")
    return run_id(task.id, worker, attempt)


def to_carry_out(task: Task) -> list[tuple[CheckRequested, str]]:
    """The checks that wait for their workspace to be settled, each with what was chosen."""
    return [
        (check, item.choice)
        for item in task.divergences
        if item.choice in ("restore", "accept")
        and isinstance(check := task.requests.get(item.reported.run_id), CheckRequested)
    ]


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
