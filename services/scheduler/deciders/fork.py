"""A task that goes on from a step of another task's run: what it takes over, and what cannot be forked."""

from __future__ import annotations

from events.errors import Invalid
from events.kernel import Event, replace
from events.lineage import ForkedFrom
from events.pipeline import TestsGate
from events.task import ForkRun, StagePassed
from events.task_state import TASK, Passed, Task
from services.scheduler.deciders.task import advance


def fork(
    task: Task, command: ForkRun, *, source: Task, point: ForkedFrom, number: int, submission_id: str
) -> tuple[Event, ...]:
    """``source`` is the task of the forked run as it was at ``point``. The fork asks for the same in the same way, with
    the stages that had passed by then; nothing that was used up counts."""
    if task.submitted is not None:
        return ()
    assert source.submitted is not None
    passed = carried(source, point.stage)
    _check_gates(source, point.stage, passed)
    specification = source.submitted.specification
    submitted = replace(
        source.submitted,
        specification=replace(specification, agent=command.agent or specification.agent),
        number=number,
        submission_id=submission_id,
        forked_from=point,
    )
    events = (submitted, *(StagePassed(stage=name, result=source.stages[name].result) for name in passed))
    return (*events, *advance(TASK.fold_onto(task, events)))


def carried(source: Task, stage: str) -> list[str]:
    """The stages that a fork at ``stage`` need not repeat: those that had passed, and do not build on it."""
    assert source.submitted is not None
    later = source.submitted.pipeline.dependents(stage) | {stage}
    return [name for name, state in source.stages.items() if isinstance(state.position, Passed) and name not in later]


def _check_gates(source: Task, fork_stage: str, passed: list[str]) -> None:
    """A gate runs its tests in the workspace of the work that it looks at: the fork must have one of its own."""
    assert source.submitted is not None
    for stage in source.submitted.pipeline.stages:
        if stage.name in passed or stage.role or not isinstance(stage.gate, TestsGate):
            continue
        if stage.needs and stage.needs[0] in passed:
            message = (
                f"stage {stage.name!r} has yet to test the work of stage {stage.needs[0]!r}, whose workspace a fork at "
                f"stage {fork_stage!r} would not have: fork a run of stage {stage.needs[0]!r} instead."
            )
            raise Invalid(message, slug="gate-without-workspace")
