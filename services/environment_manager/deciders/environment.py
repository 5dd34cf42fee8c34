"""What may follow in an environment. Each function takes the state; what is known already is not said again."""

from __future__ import annotations

import msgspec

from events import tools
from events.calls import OF_THE_RUNNER
from events.content import EMPTY, Content
from events.environment import (
    BranchPushed,
    BranchRefused,
    CallEnd,
    CheckpointBundled,
    Environment,
    EnvironmentInspected,
    EnvironmentLost,
    EnvironmentMoved,
    EnvironmentPreparationFailed,
    EnvironmentPrepared,
    EnvironmentRemoved,
    ExecuteTool,
    OrphanRemoved,
    ReconciliationFailed,
    ToolCallCompleted,
    ToolCallInterrupted,
    ToolCallStarted,
    ToolCallUncertain,
    WorkspaceDiverged,
    WorkspaceReconciled,
)
from events.errors import CommandRejected
from events.kernel import Event, replace
from events.requests import CallRequested, RequestCall
from services.environment_manager.ports import Checkpoint

MAX_UNCERTAIN = 3
GONE = "it had been started, and the process that ran it is gone without a result"
NOT_REPEATED = f"{GONE}; it may or may not have had its effects, and was not repeated"

Events = tuple[Event, ...]


def prepare(state: Environment, prepared: EnvironmentPrepared, bundle: CheckpointBundled | None = None) -> Events:
    """With ``bundle`` another host could take it over from the first moment on."""
    if stands(state):
        return ()
    return (prepared,) if bundle is None else (prepared, bundle)


def move(state: Environment, moved: EnvironmentMoved, *, restored: str) -> Events:
    """Its host is gone: it lives on where ``moved`` says, from the bundled checkpoint ``restored``. Where calls had
    ended that are not in it, the workspace has diverged: nothing begins there before somebody chose.

    Nothing where it changed meanwhile: then that host is not gone, or another one was faster.
    """
    if not stands(state) or state.host != moved.from_host or state.bundled != restored:
        return ()
    lost = tuple(call for call, _ in state.unbundled)
    if not lost:
        return (moved,)
    diverged = WorkspaceDiverged(kind="checkpoint", expected=state.checkpoint, found=moved.checkpoint)
    return (replace(moved, lost_calls=lost), diverged)


def fail_move(state: Environment, failed: EnvironmentPreparationFailed, from_host: str) -> Events:
    """Nobody can take it over; whoever asked for it waits for an answer."""
    return (failed,) if stands(state) and state.host == from_host else ()


def bundle(state: Environment, bundled: CheckpointBundled) -> Events:
    """The next of the chain; nothing where it does not fit on what is there."""
    fits = not bundled.base or any(item.checkpoint == bundled.base for item in state.bundles)
    return (bundled,) if stands(state) and fits and bundled.checkpoint != state.bundled else ()


def fail_preparation(state: Environment, failed: EnvironmentPreparationFailed) -> Events:
    """Said each time that it fails: whoever asked waits for an answer."""
    return () if stands(state) else (failed,)


def start_call(state: Environment, started: ToolCallStarted) -> Events:
    return () if state.knows(started.call_id) else (started,)


def request_call(state: Environment, command: RequestCall, *, call_id: str, by: str) -> Events:
    """A person's call. Raises ``CommandRejected`` for what cannot be."""
    if state.knows(call_id) or call_id in state.asked:
        return ()
    if not stands(state):
        message = f"environment {state.id} does not stand: nothing can be executed in it."
        raise CommandRejected(message, slug="environment-missing")
    definition = tools.find(command.tool)
    if definition is None or command.tool in (*tools.INTERNAL, *OF_THE_RUNNER):
        message = f"{command.tool!r} is no tool that a person can use."
        raise CommandRejected(message, slug="unknown-tool", status=422)
    return (
        CallRequested(
            call_id=call_id,
            tool=command.tool,
            arguments=command.arguments,
            effects=definition.effects,
            retry=definition.retry,
            by=by,
        ),
    )


def check_removable(state: Environment, *, active: bool) -> None:
    """Raises ``CommandRejected`` where a person cannot have it removed: ``active`` says that a run goes on in it."""
    if state.prepared is None:
        message = f"there is no environment {state.id!r}."
        raise CommandRejected(message, slug="not-found", status=404)
    if active:
        message = f"a run goes on in environment {state.id}: cancel its task, which removes it too."
        raise CommandRejected(message, slug="environment-in-use")


def end_call(state: Environment, ended: CallEnd, facts: Events = ()) -> Events:
    """With what the call found or changed, if that is more than its result."""
    return () if ended.call_id in state.ended else (*facts, ended)


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe was asked, what it printed, and its exit code (None where it could not be asked)."""

    asked: str
    answered: Content = EMPTY
    exit_code: int | None = None


def asks_world(command: ExecuteTool) -> bool:
    """Whether the tool declares a probe that can tell what became of a call."""
    return command.effects == "external" and command.retry == "probe" and command.declared is not None


def resolve_uncertain(
    state: Environment, command: ExecuteTool, probed: Probed | None = None, left: Checkpoint | None = None
) -> Events:
    """A started call without a result, its process gone: as its tool declares.

    ``workspace``: the workspace goes back to the checkpoint before it, and it is executed again. ``external`` and
    ``idempotent``: executed again. ``probe``: as the probe answered. Everything else, and what was uncertain too
    often, is not repeated: the agent is told, and the call is over. ``left`` is the workspace as it was found.
    """
    if command.call_id not in state.running:
        return ()
    again = state.uncertain.get(command.call_id, 0) < MAX_UNCERTAIN
    if probed is not None:
        return _as_probed(state, command, probed, left, again=again)
    if again and command.effects == "workspace":
        return (_uncertain(command, "restore-and-execute-again", GONE, restored=state.checkpoint),)
    if again and (command.effects == "none" or command.retry == "idempotent"):
        return (_uncertain(command, "execute-again", GONE),)
    return (_uncertain(command, "told-agent", NOT_REPEATED), _interrupted(state, command, NOT_REPEATED, left))


def _as_probed(
    state: Environment, command: ExecuteTool, probed: Probed, left: Checkpoint | None, *, again: bool
) -> Events:
    """Exit code 0: it happened, and what the probe printed is its result. 1: it did not. Else nobody knows."""
    if probed.exit_code == 0:
        completed = ToolCallCompleted(
            call_id=command.call_id,
            run_id=command.run_id,
            tool=command.tool,
            duration_ms=0,
            content=probed.answered,
            exit_code=0,
        )
        detail = f"{GONE}; its probe says that it happened"
        return (_uncertain(command, "probed", detail, probed=probed), _with_workspace(state, completed, left))
    if probed.exit_code == 1 and again:
        detail = f"{GONE}; its probe says that it did not happen"
        return (_uncertain(command, "execute-again", detail, probed=probed),)
    uncertain = _uncertain(command, "told-agent", NOT_REPEATED, probed=probed)
    return (uncertain, _interrupted(state, command, NOT_REPEATED, left))


def abandon_call(state: Environment, started: ToolCallStarted, left: Checkpoint | None = None) -> Events:
    """A started call that nobody waits for any more. ``left`` is the workspace as it leaves it."""
    if started.call_id not in state.running:
        return ()
    changed = left if left is not None and left.commit != state.checkpoint else Checkpoint("", "")
    return (
        ToolCallInterrupted(
            call_id=started.call_id,
            run_id=started.run_id,
            tool=started.tool,
            reason="nobody waits for it any more",
            checkpoint=changed.commit,
            tree=changed.tree,
        ),
    )


def _uncertain(
    command: ExecuteTool, resolution: str, detail: str, *, restored: str = "", probed: Probed | None = None
) -> ToolCallUncertain:
    return ToolCallUncertain(
        call_id=command.call_id,
        run_id=command.run_id,
        tool=command.tool,
        resolution=resolution,
        detail=detail,
        restored=restored,
        asked=probed.asked if probed is not None else "",
        answered=probed.answered if probed is not None else EMPTY,
        answer_code=probed.exit_code if probed is not None else None,
    )


def _interrupted(state: Environment, command: ExecuteTool, reason: str, left: Checkpoint | None) -> CallEnd:
    interrupted = ToolCallInterrupted(call_id=command.call_id, run_id=command.run_id, tool=command.tool, reason=reason)
    return _with_workspace(state, interrupted, left)


def _with_workspace(state: Environment, ended: CallEnd, left: Checkpoint | None) -> CallEnd:
    """What the process changed before it was gone is named by the end of its call."""
    if left is None or left.commit == state.checkpoint:
        return ended
    return replace(ended, checkpoint=left.commit, tree=left.tree)


def record_push(state: Environment, pushed: BranchPushed | BranchRefused) -> Events:
    return () if pushed.check_id in state.pushed else (pushed,)


def remove(state: Environment, reason: str) -> Events:
    return (EnvironmentRemoved(reason=reason),) if stands(state) else ()


def stands(state: Environment) -> bool:
    """Whether the log says that there is a workspace."""
    return state.stands


def inspect(state: Environment, inspection_id: str, found: WorkspaceDiverged | None) -> Events:
    """Answer whoever asked (nobody did where the id is empty), with what was found if that is not known yet."""
    answer: Events = ()
    if inspection_id and state.inspected != inspection_id:
        answer = (EnvironmentInspected(inspection_id=inspection_id),)
    if found is None or state.diverged is not None or state.running or not stands(state):
        return answer
    return (found, *answer)


def reconcile(state: Environment, choice: str, *, checkpoint: str, tree: str, session: str = "") -> Events:
    if state.diverged is None:
        return ()
    return (WorkspaceReconciled(choice=choice, checkpoint=checkpoint, tree=tree, session=session),)


def fail_reconciliation(state: Environment, choice: str, cause: str, detail: str) -> Events:
    """Said each time that it fails: whoever asked waits for an answer."""
    return () if state.diverged is None else (ReconciliationFailed(choice=choice, cause=cause, detail=detail),)


def lose(state: Environment, detail: str) -> Events:
    """The workspace is gone. Calls that ran in it are uncertain, and resolved as such when it is there again."""
    return (EnvironmentLost(detail=detail),) if stands(state) else ()


def remove_orphan(kind: str, name: str, reason: str) -> Events:
    return (OrphanRemoved(kind=kind, name=name, reason=reason),)
