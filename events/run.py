"""A run: one agent's work on one stage of one task. Owned by the agent-runner that holds its lease.

A run survives its runner: whoever takes the lease appends ``RunResumed`` with the next epoch, at the expected
revision, and so fences the one before. The events carry deltas; the conversation with the model is folded from
them and from the environment's results (``events.conversation``).
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.agents import Agent, Limits
from events.content import EMPTY, Content
from events.kernel import Command, Entity, Event, evolver, replace
from events.lineage import ForkedFrom
from events.sandboxes import Sandbox


class StartRun(Command, frozen=True, kw_only=True):
    """The lease of a run: unacknowledged while the run lasts. ``limits`` are the agent's and the task's together.
    ``sources`` are the environments that made ``bases``. Where it is ``forked_from`` another run, its conversation
    goes on from there. Its workspace begins as the checkpoint ``restore`` of the environment ``restore_source``, which
    lies on ``host``, where these are given. ``groups`` are the groups of tools that its stage opens."""

    task_id: str
    stage: str
    attempt: int
    environment_id: str
    agent_name: str
    agent: Agent
    prompt: str
    limits: Limits
    repository_url: str
    base_branch: str = ""
    bases: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    secrets: dict[str, str] = {}
    isolation: str = "worktree"
    sandbox: Sandbox = Sandbox()
    forked_from: ForkedFrom | None = None
    restore: str = ""
    restore_source: str = ""
    host: str = ""
    on_divergence: str = "ask"
    groups: tuple[str, ...] = ()


class RunStarted(Event, frozen=True, kw_only=True):
    """Epoch 1. ``host`` is the worker whose environment-manager executes the run's calls.

    Of a run that is ``forked_from`` another one, the conversation begins with that one's up to there, and ``prompt``
    follows it; an empty one is not said."""

    task_id: str
    stage: str
    attempt: int
    environment_id: str
    agent_name: str
    agent: Agent
    prompt: str
    system: str
    tools: tuple[str, ...]
    limits: Limits
    host: str
    runner: str
    epoch: int = 1
    forked_from: ForkedFrom | None = None
    groups: tuple[str, ...] = ()


class RunInterrupted(Event, frozen=True, kw_only=True):
    """The process that held the run is gone without having ended it: said by the next one when it takes the run.
    ``epoch`` and ``runner`` are of the one that is gone, ``after`` says in words what the last durable step was."""

    epoch: int
    runner: str
    after: str


class RunResumed(Event, frozen=True, kw_only=True):
    """Another process holds the run now. ``after`` says in words what the last durable step was."""

    epoch: int
    host: str
    runner: str
    after: str


class RunDiverged(Event, frozen=True, kw_only=True):
    """The world is not as the log tells it: the run does not go on until it is reconciled. ``kind`` is one of
    ``events.divergence.KINDS``, ``expected`` and ``found`` name the two in a line, ``diff`` is a unified diff."""

    divergence_id: str
    kind: str
    expected: str
    found: str
    diff: Content = EMPTY


class RunReconciled(Event, frozen=True, kw_only=True):
    """The divergence is settled, and the run goes on. ``by`` is who chose, ``policy`` where the project's did."""

    divergence_id: str
    kind: str
    choice: str
    by: str


class RunReconfigured(Event, frozen=True, kw_only=True):
    """From here on the agent works with what is configured now, not with what the run began with."""

    agent: Agent
    system: str
    tools: tuple[str, ...]


class ModelResponded(Event, frozen=True, kw_only=True):
    """One answer of the model; the calls it asks for follow as ``ToolCallRequested`` in the same decision."""

    step: int
    text: str = ""
    stop_reason: str = ""
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    duration_ms: int = 0


class ModelCallPostponed(Event, frozen=True, kw_only=True):
    """The provider flinched; the run waits. ``failures`` counts those in a row."""

    failures: int
    cause: str
    detail: str
    retry_at: datetime


class ToolCallRequested(Event, frozen=True, kw_only=True):
    """Durable before anything is dispatched. ``provider_call_id`` is the model's own id of the call, which need not
    be unique; ``call_id`` is ours, which is. ``retry`` (``never``, ``idempotent`` or ``probe``) says what may follow
    an uncertain end of a call with external effects."""

    call_id: str
    step: int
    tool: str
    arguments: Content
    effects: str
    retry: str = "never"
    provider_call_id: str = ""


class ToolCallRefused(Event, frozen=True, kw_only=True):
    """Never dispatched: the model asked for something that cannot be. ``detail`` is what it is told."""

    call_id: str
    cause: str
    detail: str


class AnswerReceived(Event, frozen=True, kw_only=True):
    """A person answered the question that the call asked."""

    call_id: str
    answer: str


class AgentReminded(Event, frozen=True, kw_only=True):
    """The model stopped without saying that it is done; this is what it was told."""

    text: str


class RunSucceeded(Event, frozen=True, kw_only=True):
    summary: str
    commit: str


class RunCrashed(Event, frozen=True, kw_only=True):
    """An agent program ended with a non-zero exit code, or could not be started."""

    exit_code: int | None
    detail: str


class RunTimedOut(Event, frozen=True, kw_only=True):
    limit_seconds: float


class RunFellSilent(Event, frozen=True, kw_only=True):
    """Nothing was printed for the idle limit."""

    limit_seconds: float


class RunOverBudget(Event, frozen=True, kw_only=True):
    """``budget`` is steps, tokens or cost_usd."""

    budget: str
    limit: float
    used: float


class RunRefused(Event, frozen=True, kw_only=True):
    """The provider will not serve this run: bad credentials, a spend limit, an unknown model."""

    cause: str
    detail: str


class RunStarved(Event, frozen=True, kw_only=True):
    """The provider flinched too often in a row. ``retry_after_seconds`` is what it asks for, if anything."""

    failures: int
    cause: str
    detail: str
    retry_after_seconds: float = 0.0


class RunStalled(Event, frozen=True, kw_only=True):
    """The model kept stopping without calling a tool, in spite of the reminders."""

    detail: str


class RunUnprepared(Event, frozen=True, kw_only=True):
    """Its environment could not be made."""

    cause: str
    detail: str
    retryable: bool = False


class RunCrashLooped(Event, frozen=True, kw_only=True):
    """Its runners kept dying at the same step."""

    epochs: int


class RunCancelled(Event, frozen=True, kw_only=True):
    reason: str


class RunAbandoned(Event, frozen=True, kw_only=True):
    """It had diverged (``kind``), and was given up rather than reconciled."""

    kind: str
    by: str


RunEnd = (
    RunSucceeded
    | RunCrashed
    | RunTimedOut
    | RunFellSilent
    | RunOverBudget
    | RunRefused
    | RunStarved
    | RunStalled
    | RunUnprepared
    | RunCrashLooped
    | RunCancelled
    | RunAbandoned
)

RUN_ENDS: dict[type[Event], str] = {
    RunSucceeded: "succeeded",
    RunCrashed: "crashed",
    RunTimedOut: "timed_out",
    RunFellSilent: "fell_silent",
    RunOverBudget: "over_budget",
    RunRefused: "refused",
    RunStarved: "starved",
    RunStalled: "stalled",
    RunUnprepared: "unprepared",
    RunCrashLooped: "crash_looped",
    RunCancelled: "cancelled",
    RunAbandoned: "abandoned",
}


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """``calls`` are those of the last answer, the only ones that can be open. ``barren_epochs`` counts resumes since
    the last durable step, ``model_failures`` and ``reminders`` those in a row. ``diverged`` waits to be reconciled;
    ``waived`` are the configurations that were found, and that the run goes on without."""

    id: str
    started: RunStarted | None = None
    epoch: int = 0
    host: str = ""
    runner: str = ""
    steps: int = 0
    call_count: int = 0
    calls: tuple[ToolCallRequested, ...] = ()
    refused: dict[str, ToolCallRefused] = {}
    answers: dict[str, str] = {}
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    model_failures: int = 0
    retry_at: datetime | None = None
    reminders: int = 0
    barren_epochs: int = 0
    last: str = "nothing"
    diverged: RunDiverged | None = None
    divergences: int = 0
    waived: tuple[str, ...] = ()
    ended: RunEnd | None = None

    @property
    def status(self) -> str:
        """pending, running, diverged, or how it ended (the values of ``RUN_ENDS``)."""
        if self.ended is not None:
            return RUN_ENDS[type(self.ended)]
        if self.diverged is not None:
            return "diverged"
        return "pending" if self.started is None else "running"


def _started(run: Run, event: RunStarted) -> Run:
    return replace(run, started=event, epoch=event.epoch, host=event.host, runner=event.runner, last="run started")


def _resumed(run: Run, event: RunResumed) -> Run:
    return replace(run, epoch=event.epoch, host=event.host, runner=event.runner, barren_epochs=run.barren_epochs + 1)


def _diverged(run: Run, event: RunDiverged) -> Run:
    return replace(run, diverged=event, divergences=run.divergences + 1)


def _reconciled(run: Run, event: RunReconciled) -> Run:
    waived = run.waived
    if run.diverged is not None and event.kind == "configuration" and event.choice == "restore":
        waived = (*waived, run.diverged.found)
    return replace(run, diverged=None, waived=waived, barren_epochs=0)


def _reconfigured(run: Run, event: RunReconfigured) -> Run:
    if run.started is None:
        return run
    started = replace(run.started, agent=event.agent, system=event.system, tools=event.tools)
    return replace(run, started=started, waived=())


def _responded(run: Run, event: ModelResponded) -> Run:
    return replace(
        run,
        steps=event.step,
        calls=(),
        refused={},
        answers={},
        input_tokens=run.input_tokens + event.input_tokens,
        output_tokens=run.output_tokens + event.output_tokens,
        cost_usd=run.cost_usd + event.cost_usd,
        model_failures=0,
        retry_at=None,
        barren_epochs=0,
        last=f"answer {event.step} of the model",
    )


def _requested(run: Run, event: ToolCallRequested) -> Run:
    return replace(
        run,
        calls=(*run.calls, event),
        call_count=run.call_count + 1,
        reminders=0,
        barren_epochs=0,
        last=f"request of {event.tool} ({event.call_id})",
    )


def _ended(run: Run, event: RunEnd) -> Run:
    return replace(run, ended=event, last=RUN_ENDS[type(event)])


RUN: Entity[Run] = Entity(
    name="run",
    initial=lambda id: Run(id=id),
    evolve=evolver(
        {
            RunStarted: _started,
            RunResumed: _resumed,
            RunDiverged: _diverged,
            RunReconciled: _reconciled,
            RunReconfigured: _reconfigured,
            ModelResponded: _responded,
            ModelCallPostponed: lambda run, event: replace(
                run,
                model_failures=event.failures,
                retry_at=event.retry_at,
                barren_epochs=0,
                last=f"wait for the model ({event.cause})",
            ),
            ToolCallRequested: _requested,
            ToolCallRefused: lambda run, event: replace(run, refused={**run.refused, event.call_id: event}),
            AnswerReceived: lambda run, event: replace(
                run, answers={**run.answers, event.call_id: event.answer}, barren_epochs=0
            ),
            AgentReminded: lambda run, event: replace(
                run, reminders=run.reminders + 1, barren_epochs=0, last="reminder to submit"
            ),
            **dict.fromkeys(RUN_ENDS, _ended),
        }
    ),
)
