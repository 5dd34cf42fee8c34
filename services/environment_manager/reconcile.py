"""What a restarted environment-manager has to do for one environment: the log compared with the world. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from events.calls import OF_THE_RUNNER, call_of_check, call_of_run
from events.environment import Environment, ExecuteTool, ToolCallStarted
from events.run import Run
from events.task import CheckRequested, TaskCancelled, TaskCompleted
from events.task_state import Task


class Remove(msgspec.Struct, frozen=True):
    """Nothing needs the environment any more."""

    reason: str


class Continue(msgspec.Struct, frozen=True):
    """The log wants this call and holds no end of it: adopt its process, resolve it, or begin it."""

    command: ExecuteTool


class Abandon(msgspec.Struct, frozen=True):
    """The call was started, and nothing in the log asks for it any more."""

    started: ToolCallStarted


Action = Remove | Continue | Abandon


def reconcile(environment: Environment, task: Task, wanted: Mapping[str, ExecuteTool]) -> list[Action]:
    """``wanted`` are the calls that runs and gates ask for."""
    if environment.prepared is None or environment.removed:
        return [Remove("it is not in the log")]
    if needless(task):
        return [Remove(f"task {task.id} is {task.status}")]
    unwanted = [Abandon(started) for call_id, started in environment.running.items() if call_id not in wanted]
    # What was begun goes first: it may have left the workspace half changed.
    ordered = sorted(wanted, key=lambda id: id not in environment.running)
    return [*unwanted, *(Continue(wanted[id]) for id in ordered if id not in environment.ended)]


def needless(task: Task) -> bool:
    """A failed or blocked task keeps its workspace: a person may look at it, or have it tried again."""
    return isinstance(task.ended, TaskCompleted | TaskCancelled)


def requested_calls(runs: Iterable[Run], checks: Iterable[CheckRequested], task_id: str) -> dict[str, ExecuteTool]:
    """The calls that runs and gates want executed here, as the commands that would be sent for them."""
    wanted: dict[str, ExecuteTool] = {}
    for run in runs:
        if run.ended is None and run.started is not None:
            for call in run.calls:
                if call.tool not in OF_THE_RUNNER and call.call_id not in run.refused:
                    wanted[call.call_id] = call_of_run(run, call)
    for check in checks:
        if check.kind == "tests":
            wanted[check.check_id] = call_of_check(check, task_id)
    return wanted
