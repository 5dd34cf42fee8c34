"""An environment: an isolated workspace, its processes and the tool calls executed in it. Owned by the
environment-manager of the host that it lives on.

The state of a call is always derivable: requested (the run's log), then here started, completed, failed,
interrupted or uncertain. A call that changes nothing (effects ``none``) needs no record of its start: to be
uncertain about it is harmless.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from immutables import Map

from events import requests, systems
from events.agents import CommandTool
from events.content import EMPTY, Content, Stored
from events.kernel import Command, Entity, Event, evolver, replace
from events.sandboxes import Sandbox

EFFECTS = ("none", "workspace", "external")


class PrepareEnvironment(Command, frozen=True, kw_only=True):
    """Make the workspace, or find it as it is. ``bases`` are branches or commits merged onto the base branch;
    with ``restore`` a new workspace shows that checkpoint instead, which the environment ``restore_source`` made.

    ``sources`` are the environments that made those commits. One without a task is a person's (``made_by``), who also
    removes it, of ``project``. ``secrets`` maps names of environment variables to
    references that are resolved on the host.
    """

    task_id: str
    repository_url: str
    base_branch: str = ""
    bases: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    secrets: dict[str, str] = {}
    isolation: str = "worktree"
    sandbox: Sandbox = Sandbox()
    restore: str = ""
    restore_source: str = ""
    project: str = ""
    made_by: str = ""


class ExecuteTool(Command, frozen=True, kw_only=True):
    """Execute a call that the log already holds as requested. ``arguments`` is the text of a JSON object.

    ``run_id`` names whose output it is. ``check_stage`` is set where a gate asks rather than an agent: the answer
    then also goes to the scheduler. ``secrets`` are the agent's own, by reference, beside the environment's.
    ``declared`` is what the agent's description says of a tool of its own. A tool of a group is refused that is not
    among ``groups``, which the pipeline's stage opens.
    """

    call_id: str
    run_id: str
    task_id: str
    tool: str
    arguments: Content
    effects: str = "workspace"
    retry: str = "never"
    time_limit_seconds: float = 600.0
    idle_limit_seconds: float = 0.0
    check_stage: str = ""
    secrets: dict[str, str] = {}
    declared: CommandTool | None = None
    session_file: str = ""
    groups: tuple[str, ...] = ()


class InterruptCall(Command, frozen=True, kw_only=True):
    """End the process tree of a call: its run was cancelled or is over its limits."""

    call_id: str
    reason: str


class InspectEnvironment(Command, frozen=True, kw_only=True):
    """Compare the workspace with the log, between two calls; ``EnvironmentInspected`` with that id answers.
    ``session_file`` is where the agent keeps its own record of the session, if it does."""

    inspection_id: str
    session_file: str = ""


class ReconcileEnvironment(Command, frozen=True, kw_only=True):
    """Settle what diverged: ``restore`` the last checkpoint, or ``accept`` the present as the next one."""

    choice: str
    session_file: str = ""


class PublishBranch(Command, frozen=True, kw_only=True):
    """Push the checkpoint ``commit`` as the task's branch and open its pull request."""

    task_id: str
    stage: str
    check_id: str
    commit: str
    title: str
    description: str


class EnvironmentPrepared(Event, frozen=True, kw_only=True):
    """``commit`` is the first checkpoint, ``base_commit`` where the base branch stood. ``bundled`` says that the
    checkpoints are also kept in the content store, for another host to take over. ``isolation`` is what it became,
    ``image`` what its container was made of, ``bases`` the commits of other stages that it began from."""

    task_id: str
    host: str
    isolation: str
    repository_url: str
    base_branch: str
    base_commit: str
    commit: str
    tree: str
    workspace: str
    secrets: dict[str, str] = {}
    bundled: bool = False
    project: str = ""
    made_by: str = ""
    sandbox: Sandbox = Sandbox()
    image: str = ""
    bases: tuple[str, ...] = ()


class EnvironmentMoved(Event, frozen=True, kw_only=True):
    """The host it was on is gone; from here on it lives on ``host``, with the workspace as ``checkpoint`` has it.

    ``lost_calls`` are the finished calls whose changes were not bundled in time and went with the old host. Calls
    that were running there are uncertain.
    """

    host: str
    from_host: str
    checkpoint: str
    tree: str
    workspace: str
    lost_calls: tuple[str, ...] = ()


class CheckpointBundled(Event, frozen=True, kw_only=True):
    """``content`` is a pack of git objects: everything up to ``checkpoint`` that is not there with ``base``.

    ``base`` is an earlier bundled checkpoint, or empty: then it is the commit of the base branch that the environment
    began with, which every host can fetch. A bundle takes the place of those after its base. ``weight`` counts the
    bundles that went into it.
    """

    checkpoint: str
    base: str
    content: Stored
    weight: int = 1


class EnvironmentPreparationFailed(Event, frozen=True, kw_only=True):
    """``cause`` is a slug (``repository-not-found``, ``merge-conflict`` …), ``detail`` what git or the host said."""

    task_id: str
    cause: str
    detail: str
    retryable: bool = False


class ToolCallStarted(Event, frozen=True, kw_only=True):
    """Written before anything happens in the world."""

    call_id: str
    run_id: str
    tool: str
    effects: str = "workspace"
    retry: str = "never"


class ToolCallCompleted(Event, frozen=True, kw_only=True):
    """The tool ran to its end. ``exit_code`` is None for a tool that is no process.

    ``checkpoint`` and ``tree`` are set where the workspace changed. ``output_bytes`` counts all that was printed,
    ``truncated`` says that ``content`` holds less than that. ``session`` is the SHA-256 of the record that an agent
    program keeps of its session, as the call left it.
    """

    call_id: str
    run_id: str
    tool: str
    duration_ms: int
    content: Content = EMPTY
    exit_code: int | None = None
    checkpoint: str = ""
    tree: str = ""
    output_bytes: int = 0
    truncated: bool = False
    session: str = ""


class ToolCallFailed(Event, frozen=True, kw_only=True):
    """The tool could not do what was asked. ``cause`` is a slug, ``detail`` is what the agent is told."""

    call_id: str
    run_id: str
    tool: str
    cause: str
    detail: str
    duration_ms: int = 0
    content: Content = EMPTY
    exit_code: int | None = None
    checkpoint: str = ""
    tree: str = ""
    output_bytes: int = 0
    truncated: bool = False
    session: str = ""


class ToolCallInterrupted(Event, frozen=True, kw_only=True):
    """The call was ended from outside before it was done."""

    call_id: str
    run_id: str
    tool: str
    reason: str
    checkpoint: str = ""
    tree: str = ""
    session: str = ""


class ToolCallUncertain(Event, frozen=True, kw_only=True):
    """Started, without a result, its process gone. ``resolution`` says what follows: ``execute-again``,
    ``restore-and-execute-again`` (from ``restored`` checkpoint), ``probed`` (it had happened, and its end follows) or
    ``told-agent`` (it is not repeated). Where a probe was asked, ``asked`` is its command line, ``answered`` what it
    printed and ``answer_code`` its exit code."""

    call_id: str
    run_id: str
    tool: str
    resolution: str
    detail: str
    restored: str = ""
    asked: str = ""
    answered: Content = EMPTY
    answer_code: int | None = None


class BranchPushed(Event, frozen=True, kw_only=True):
    check_id: str
    branch: str
    commit: str
    remote: str


class BranchRefused(Event, frozen=True, kw_only=True):
    """The remote did not take the branch; ``detail`` is what it said."""

    check_id: str
    branch: str
    detail: str


class EnvironmentInspected(Event, frozen=True, kw_only=True):
    """The answer to whoever asked. What was found stands in ``WorkspaceDiverged`` of the same decision, if anything."""

    inspection_id: str


class WorkspaceDiverged(Event, frozen=True, kw_only=True):
    """What lies on the disk is not what the log tells of it, and no call was running. ``kind`` is workspace (its files
    were changed), checkpoint (the last one is missing) or session (the agent's own record is behind or ahead).
    ``expected`` and ``found`` name the two, ``diff`` is the unified diff from one to the other."""

    kind: str
    expected: str
    found: str
    diff: Content = EMPTY


class WorkspaceReconciled(Event, frozen=True, kw_only=True):
    """Disk and log agree again. ``checkpoint`` and ``tree`` are what the workspace shows now, ``session`` is the
    SHA-256 of the agent's own record, where that was accepted."""

    choice: str
    checkpoint: str
    tree: str
    session: str = ""


class ReconciliationFailed(Event, frozen=True, kw_only=True):
    """What was chosen could not be done; it stays diverged. ``cause`` is a slug, ``detail`` what git said."""

    choice: str
    cause: str
    detail: str


class EnvironmentLost(Event, frozen=True, kw_only=True):
    """Its workspace is gone without anybody having removed it. Whoever needs it has it prepared again."""

    detail: str


class OrphanRemoved(Event, frozen=True, kw_only=True):
    """A workspace, process or checkpoints (``kind``) that no log explains were found on the host and removed."""

    kind: str
    name: str
    reason: str


class EnvironmentRemoved(Event, frozen=True, kw_only=True):
    reason: str = ""


CallEnd = ToolCallCompleted | ToolCallFailed | ToolCallInterrupted

_END_NAMES: dict[type[Event], str] = {
    ToolCallCompleted: "completed",
    ToolCallFailed: "failed",
    ToolCallInterrupted: "interrupted",
}


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """``prepared`` is None until the workspace stands. ``ended`` maps the id of every call that ended to how it did:
    ``completed``, ``failed`` or ``interrupted`` (a persistent map: it grows by thousands and is never copied).
    ``uncertain`` counts for each call that was so, how often. ``host`` is where it lives. ``bundles`` lead from the
    base commit to ``bundled``, the last checkpoint that another host could take over; ``unbundled`` are the calls that
    changed the workspace since, each with its checkpoint. ``elsewhere`` are the calls that ran on a host, or in a
    workspace, that is gone; ``lost_calls`` those whose changes went with it. While it has ``diverged``, no call
    begins. ``asked`` are the calls that people want and that have no end yet. ``system`` is the composed one, as it was
    seen last; ``composed`` says that there may be one."""

    id: str
    prepared: EnvironmentPrepared | None = None
    failure: EnvironmentPreparationFailed | None = None
    removed: bool = False
    checkpoint: str = ""
    tree: str = ""
    running: dict[str, ToolCallStarted] = {}
    ended: Map[str, str] = Map()
    uncertain: dict[str, int] = {}
    pushed: dict[str, BranchPushed | BranchRefused] = {}
    host: str = ""
    workspace: str = ""
    bundles: tuple[CheckpointBundled, ...] = ()
    unbundled: tuple[tuple[str, str], ...] = ()
    elsewhere: frozenset[str] = frozenset()
    lost_calls: tuple[str, ...] = ()
    lost: bool = False
    inspected: str = ""
    diverged: WorkspaceDiverged | None = None
    sessions: tuple[str, ...] = ()
    asked: dict[str, requests.CallRequested] = {}
    system: systems.System | None = None
    composed: bool = False

    @property
    def bundled(self) -> str:
        return self.bundles[-1].checkpoint if self.bundles else ""

    @property
    def only_on(self) -> str:
        """The host that alone has its last checkpoint; empty where others can have it too."""
        return self.host if self.bundled != self.checkpoint else ""

    @property
    def stands(self) -> bool:
        """Whether there is a workspace, as far as the log knows."""
        return self.prepared is not None and not self.removed and not self.lost

    def begins_from(self, bases: Collection[str]) -> bool:
        """Whether it was made from these commits of other stages, as far as the log tells. Otherwise those stages have
        worked again since, and what was done here is about work that is gone."""
        made_from = self.prepared.bases if self.prepared is not None else ()
        return not bases or not made_from or set(bases) == set(made_from)

    def knows(self, call: str) -> bool:
        return call in self.running or call in self.ended


def _prepared(state: Environment, event: EnvironmentPrepared) -> Environment:
    return replace(
        state,
        prepared=event,
        failure=None,
        removed=False,
        lost=False,
        diverged=None,
        checkpoint=event.commit,
        tree=event.tree,
        host=event.host,
        workspace=event.workspace,
    )


def _moved(state: Environment, event: EnvironmentMoved) -> Environment:
    return replace(
        state,
        host=event.host,
        workspace=event.workspace,
        lost=False,
        diverged=None,
        checkpoint=event.checkpoint,
        tree=event.tree,
        unbundled=(),
        elsewhere=frozenset(state.running),
        lost_calls=event.lost_calls,
        system=None,
    )


def _bundled(state: Environment, event: CheckpointBundled) -> Environment:
    kept = 0
    for number, bundle in enumerate(state.bundles, 1):
        if event.base and bundle.checkpoint == event.base:
            kept = number
    carried = [number for number, (_, checkpoint) in enumerate(state.unbundled, 1) if checkpoint == event.checkpoint]
    return replace(
        state, bundles=(*state.bundles[:kept], event), unbundled=state.unbundled[carried[-1] if carried else 0 :]
    )


def _call_started(state: Environment, event: ToolCallStarted) -> Environment:
    composed = state.composed or event.tool == "compose_up"
    return replace(state, running={**state.running, event.call_id: event}, composed=composed)


def _call_ended(state: Environment, event: CallEnd) -> Environment:
    running = state.running
    if event.call_id in running:
        running = {key: value for key, value in running.items() if key != event.call_id}
    unbundled = state.unbundled
    if event.checkpoint and state.prepared is not None and state.prepared.bundled:
        unbundled = (*unbundled, (event.call_id, event.checkpoint))
    return replace(
        state,
        running=running,
        asked={key: value for key, value in state.asked.items() if key != event.call_id},
        unbundled=unbundled,
        ended=state.ended.set(event.call_id, _END_NAMES[type(event)]),
        checkpoint=event.checkpoint or state.checkpoint,
        tree=event.tree or state.tree,
        sessions=_with_session(state, event.session),
    )


def _with_session(state: Environment, session: str) -> tuple[str, ...]:
    return (*state.sessions, session) if session else state.sessions


def _uncertain(state: Environment, event: ToolCallUncertain) -> Environment:
    return replace(
        state,
        uncertain={**state.uncertain, event.call_id: state.uncertain.get(event.call_id, 0) + 1},
        elsewhere=state.elsewhere - {event.call_id},
    )


def _pushed(state: Environment, event: BranchPushed | BranchRefused) -> Environment:
    return replace(state, pushed={**state.pushed, event.check_id: event})


ENVIRONMENT: Entity[Environment] = Entity(
    name="environment",
    initial=lambda id: Environment(id=id),
    evolve=evolver(
        {
            EnvironmentPrepared: _prepared,
            EnvironmentMoved: _moved,
            CheckpointBundled: _bundled,
            EnvironmentPreparationFailed: lambda state, event: replace(state, failure=event),
            ToolCallStarted: _call_started,
            ToolCallCompleted: _call_ended,
            ToolCallFailed: _call_ended,
            ToolCallInterrupted: _call_ended,
            ToolCallUncertain: _uncertain,
            BranchPushed: _pushed,
            BranchRefused: _pushed,
            EnvironmentInspected: lambda state, event: replace(state, inspected=event.inspection_id),
            WorkspaceDiverged: lambda state, event: replace(state, diverged=event),
            WorkspaceReconciled: lambda state, event: replace(
                state,
                diverged=None,
                checkpoint=event.checkpoint,
                tree=event.tree,
                sessions=_with_session(state, event.session),
            ),
            EnvironmentLost: lambda state, event: replace(
                state, lost=True, diverged=None, elsewhere=state.elsewhere | frozenset(state.running)
            ),
            requests.CallRequested: lambda state, event: replace(state, asked={**state.asked, event.call_id: event}),
            **dict.fromkeys(
                systems.EVENTS,
                lambda state, event: replace(state, system=systems.evolve(state.system, event)),
            ),
            EnvironmentRemoved: lambda state, event: replace(
                state, removed=True, running={}, diverged=None, asked={}, system=None, composed=False
            ),
        }
    ),
)
