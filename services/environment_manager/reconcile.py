"""What the environment-manager has to do for one environment: the log compared with the world. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from events.calls import OF_THE_RUNNER, call_of_check, call_of_request, call_of_run
from events.environment import (
    Environment,
    EnvironmentPreparationFailed,
    ExecuteTool,
    OrphanRemoved,
    PrepareEnvironment,
    ToolCallStarted,
)
from events.kernel import Event
from events.run import Run
from events.task import CheckRequested, TaskCancelled, TaskCompleted
from events.task_state import Task


class Remove(msgspec.Struct, frozen=True):
    """Nothing needs the environment any more."""

    reason: str


class Continue(msgspec.Struct, frozen=True):
    """The log wants this call and holds no end of it: adopt its process, resolve it, or begin it. Where it is a gate's
    check that has ended, its result was not heard: tell it again."""

    command: ExecuteTool


class Abandon(msgspec.Struct, frozen=True):
    """The call was started, and nothing in the log asks for it any more."""

    started: ToolCallStarted


class RemoveOrphan(msgspec.Struct, frozen=True):
    """The log has never heard of the environment, or has it removed: what is left of it goes."""

    reason: str


class Lose(msgspec.Struct, frozen=True):
    """The log says that the workspace stands, and it does not."""


class Prepare(msgspec.Struct, frozen=True):
    """The workspace is lost, and somebody needs it: it comes back as its last checkpoint shows it."""

    command: PrepareEnvironment


class EndProcess(msgspec.Struct, frozen=True):
    """A process of a call that the log has ended, or never heard of."""

    process_id: str


class Inspect(msgspec.Struct, frozen=True):
    """A run goes on here, and no call is under way: the workspace must be as the log tells it."""


Action = Remove | RemoveOrphan | Continue | Abandon | Lose | Prepare | EndProcess | Inspect


def reconcile(
    environment: Environment,
    task: Task,
    wanted: Mapping[str, ExecuteTool],
    *,
    stands: bool = True,
    active: bool = False,
    alive: Collection[str] = (),
) -> list[Action]:
    """``wanted`` are the calls that runs and gates ask for; ``stands`` says whether the workspace is on the disk,
    ``active`` whether a run goes on in it; ``alive`` are the ids of the processes that run."""
    prepared = environment.prepared
    if prepared is None or environment.removed:
        return [RemoveOrphan("it is not in the log")]
    if needless(task):
        return [Remove(f"task {task.id} is {task.status}")]
    # What was begun goes first: it may have left the workspace half changed.
    ordered = sorted(wanted, key=lambda id: id not in environment.running)
    missing = [wanted[id] for id in ordered if id not in environment.ended]
    if environment.lost or not stands:
        lost: list[Action] = [] if environment.lost else [Lose()]
        return [*lost, Prepare(prepare_again(environment))] if active or missing else lost
    unwanted = [Abandon(started) for call_id, started in environment.running.items() if call_id not in wanted]
    strays = [
        EndProcess(id)
        for id in alive
        if (call := id.partition(".")[0]) not in environment.running
        and (call not in wanted or call in environment.ended)
    ]
    # The task still asks for the check: that it ended was not heard.
    untold = [wanted[id] for id in ordered if id in environment.ended and wanted[id].check_stage]
    looking = [Inspect()] if active and not missing and not environment.running else []
    return [*unwanted, *strays, *map(Continue, [*missing, *untold]), *looking]


def unexplained(events: Iterable[Event]) -> str:
    """Why the checkpoints of an environment of which the log tells this can go; empty where they stay. Those of one
    that was ever prepared stay for ever: replay, forks, exports and whoever takes it over begin from them. The end of
    its events says the same as all of them wherever it answers that they stay."""
    said = [event for event in events if not isinstance(event, EnvironmentPreparationFailed | OrphanRemoved)]
    return "" if said else "it is not in the log"


def prepare_again(environment: Environment) -> PrepareEnvironment:
    """What makes an environment as it was prepared before."""
    prepared = environment.prepared
    assert prepared is not None
    return PrepareEnvironment(
        task_id=prepared.task_id,
        repository_url=prepared.repository_url,
        base_branch=prepared.base_branch,
        bases=prepared.bases,
        secrets=prepared.secrets,
        isolation=prepared.isolation,
        sandbox=prepared.sandbox,
        project=prepared.project,
        made_by=prepared.made_by,
    )


def asked_calls(environment: Environment) -> dict[str, ExecuteTool]:
    """Those that people asked for and that have no end yet."""
    return {id: call_of_request(environment, asked) for id, asked in environment.asked.items()}


def needless(task: Task) -> bool:
    """A failed or blocked task keeps its workspace: a person may look at it, or have it tried again."""
    return isinstance(task.ended, TaskCompleted | TaskCancelled)


def goes_on(runs: Iterable[Run]) -> bool:
    """Whether one of the runs has begun and not ended."""
    return any(run.started is not None and run.ended is None for run in runs)


def requested_calls(runs: Iterable[Run], checks: Iterable[CheckRequested], task_id: str) -> dict[str, ExecuteTool]:
    """The calls that runs and gates want executed here, as the commands that would be sent for them."""
    wanted: dict[str, ExecuteTool] = {}
    for run in runs:
        if run.ended is None and run.started is not None:
            for call in run.calls:
                if call.tool not in OF_THE_RUNNER and call.call_id not in run.refused:
                    wanted[call.call_id] = call_of_run(run, call)
    for check in checks:
        if check.kind != "pull_request":
            wanted[check.check_id] = call_of_check(check, task_id)
    return wanted
