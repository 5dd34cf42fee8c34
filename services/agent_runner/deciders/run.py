"""What may follow in a run. Each function takes the state, and the epoch of the process that asks where it must hold
the run; an older epoch is fenced: it may decide nothing any more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import msgspec

from events import tools
from events.agents import Agent, CommandTool, ModelAgent
from events.backoff import backoff
from events.content import Content
from events.errors import Fenced
from events.kernel import Event
from events.names import call_id, divergence_id
from events.run import (
    AgentReminded,
    AnswerReceived,
    ModelCallPostponed,
    ModelResponded,
    Run,
    RunAbandoned,
    RunCrashLooped,
    RunDiverged,
    RunEnd,
    RunInterrupted,
    RunOverBudget,
    RunReconciled,
    RunReconfigured,
    RunResumed,
    RunStalled,
    RunStarted,
    RunStarved,
    StartRun,
    ToolCallRefused,
    ToolCallRequested,
)
from services.agent_runner.ports import CallAsked, Configuration, ModelAnswer

MAX_BARREN_EPOCHS = 5
MAX_MODEL_FAILURES = 5
MAX_REMINDERS = 3

REMINDER = "You stopped without calling a tool. Go on with the task, or call `submit` when it is done."

Events = tuple[Event, ...]


class Requested(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the model asked for, with its arguments as content."""

    asked: CallAsked
    arguments: Content


def begin(
    run: Run, command: StartRun, *, host: str, runner: str, system: str, waiting: bool = False, after: str = ""
) -> Events:
    """Take the run: start it, or resume it in the next epoch. Nothing where it has ended.

    A run that is ``waiting`` for its calls, or has diverged, gets no further by itself: however often its runner is
    restarted in that time, it does not count as crashing at the same step. ``after`` names the last durable step
    where that stands in another log than the run's own.
    """
    if run.ended is not None:
        return ()
    if run.started is not None:
        if run.barren_epochs >= MAX_BARREN_EPOCHS and not waiting and run.diverged is None:
            return (RunCrashLooped(epochs=run.epoch),)
        last = after or run.last
        return (
            RunInterrupted(epoch=run.epoch, runner=run.runner, after=last),
            RunResumed(epoch=run.epoch + 1, host=host, runner=runner, after=last),
        )
    return (
        RunStarted(
            task_id=command.task_id,
            stage=command.stage,
            attempt=command.attempt,
            environment_id=command.environment_id,
            agent_name=command.agent_name,
            agent=command.agent,
            prompt=command.prompt,
            system=system,
            tools=offered(command.agent, command.groups),
            limits=command.limits,
            host=host,
            runner=runner,
            forked_from=command.forked_from,
            groups=command.groups,
        ),
    )


def offered(agent: Agent, groups: Collection[str] = ()) -> tuple[str, ...]:
    """The tools of an agent where its stage opens ``groups``. A transcript may also measure: it has ``noop``."""
    if not isinstance(agent, ModelAgent):
        return ()
    measuring = ("noop",) if agent.provider == "scripted" else ()
    return (*(tool.name for tool in tools.offered_to(agent, groups)), *measuring)


def diverge(run: Run, epoch: int, *, kind: str, expected: str, found: str, diff: Content) -> Events:
    """The world is not as the log tells it. Nothing where that is known already."""
    if not _holds(run, epoch) or run.diverged is not None:
        return ()
    id = divergence_id(run.id, run.divergences + 1)
    return (RunDiverged(divergence_id=id, kind=kind, expected=expected, found=found, diff=diff),)


def reconcile(run: Run, epoch: int, *, choice: str, by: str, present: Configuration | None = None) -> Events:
    """Settle a divergence. Where it was the configuration, and it is accepted, ``present`` holds from here on."""
    if not _holds(run, epoch) or run.diverged is None:
        return ()
    kind = run.diverged.kind
    if choice == "abandon":
        return (RunAbandoned(kind=kind, by=by),)
    events: Events = (RunReconciled(divergence_id=run.diverged.divergence_id, kind=kind, choice=choice, by=by),)
    if kind == "configuration" and choice == "accept" and present is not None:
        events += (RunReconfigured(agent=present.agent, system=present.system, tools=present.tools),)
    return events


def respond(
    run: Run, epoch: int, answer: ModelAnswer, calls: Sequence[Requested], *, cost_usd: float, duration_ms: int
) -> Events:
    """Record an answer of the model with the calls that it asks for; those that cannot be are refused at once."""
    if not _holds(run, epoch):
        return ()
    step = run.steps + 1
    events: list[Event] = [
        ModelResponded(
            step=step,
            text=answer.text,
            stop_reason=answer.stop_reason,
            model=answer.model,
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
            cost_usd=cost_usd,
            duration_ms=duration_ms,
        )
    ]
    seen: set[str] = set()
    for number, call in enumerate(calls, run.call_count + 1):
        asked = call.asked
        definition = _definition(run, asked.tool)
        requested = ToolCallRequested(
            call_id=call_id(run.id, number),
            step=step,
            tool=asked.tool,
            arguments=call.arguments,
            effects=definition.effects if definition else "none",
            retry=definition.retry if definition else "never",
            provider_call_id=asked.provider_call_id,
        )
        events.append(requested)
        refusal = _refusal(run, asked, seen)
        if refusal is not None:
            events.append(ToolCallRefused(call_id=requested.call_id, cause=refusal[0], detail=refusal[1]))
        if asked.provider_call_id:
            seen.add(asked.provider_call_id)
    return tuple(events)


def _refusal(run: Run, asked: CallAsked, seen: set[str]) -> tuple[str, str] | None:
    offered = run.started.tools if run.started is not None else ()
    if asked.tool not in offered:
        closed = tools.not_allowed(asked.tool, run.started.groups if run.started is not None else ())
        if closed:
            return "tool-not-allowed", closed
        return "unknown-tool", f"there is no tool {asked.tool!r}; there are {', '.join(offered)}."
    if asked.provider_call_id in seen:
        return "repeated-call", f"the call id {asked.provider_call_id!r} stands twice in one answer; it ran once."
    declared = _declared(run).get(asked.tool)
    if declared is not None:
        wrong = tools.declared_arguments(asked.tool, declared, asked.arguments)
        return ("invalid-arguments", wrong) if wrong else None
    decoded = tools.decode_arguments(asked.tool, asked.arguments)
    return ("invalid-arguments", decoded) if isinstance(decoded, str) else None


def _declared(run: Run) -> dict[str, CommandTool]:
    return tools.declared_by(run.started.agent) if run.started is not None else {}


def _definition(run: Run, name: str) -> tools.ToolDefinition | None:
    declared = _declared(run).get(name)
    return tools.define_declared(name, declared) if declared is not None else tools.find(name)


def request_program(run: Run, epoch: int, arguments: Content) -> Events:
    """Record that the agent program is to be started; nothing where it is already."""
    if not _holds(run, epoch) or run.call_count:
        return ()
    definition = tools.find("program")
    assert definition is not None
    return (
        ToolCallRequested(
            call_id=call_id(run.id, 1),
            step=1,
            tool=definition.name,
            arguments=arguments,
            effects=definition.effects,
            retry=definition.retry,
        ),
    )


def receive_answer(run: Run, epoch: int, call: str, answer: str) -> Events:
    if not _holds(run, epoch) or call in run.answers or all(item.call_id != call for item in run.calls):
        return ()
    return (AnswerReceived(call_id=call, answer=answer),)


def postpone(
    run: Run,
    epoch: int,
    *,
    cause: str,
    detail: str,
    retry_after_seconds: float | None,
    backoff_seconds: float,
    jitter: float,
    now: datetime,
) -> Events:
    """The provider flinched: wait (``events.backoff``); after five failures in a row give up."""
    if not _holds(run, epoch):
        return ()
    failures = run.model_failures + 1
    if failures > MAX_MODEL_FAILURES:
        retry_after = retry_after_seconds or 0.0
        return (RunStarved(failures=failures, cause=cause, detail=detail, retry_after_seconds=retry_after),)
    seconds = backoff(
        failures - 1, first_seconds=backoff_seconds, least_seconds=retry_after_seconds or 0.0, jitter=jitter
    )
    return (
        ModelCallPostponed(failures=failures, cause=cause, detail=detail, retry_at=now + timedelta(seconds=seconds)),
    )


def remind(run: Run, epoch: int) -> Events:
    """The model stopped without a call: tell it so, three times at most."""
    if not _holds(run, epoch):
        return ()
    if run.reminders >= MAX_REMINDERS:
        return (RunStalled(detail=f"the model stopped {run.reminders + 1} times in a row without calling a tool"),)
    return (AgentReminded(text=REMINDER),)


def end(run: Run, epoch: int, event: RunEnd) -> Events:
    """End the run, however it ends; nothing where it has ended."""
    return (event,) if _holds(run, epoch) else ()


def over_budget(run: Run) -> RunOverBudget | None:
    """The budget that is used up, if one is. Time has limits of its own."""
    if run.started is None:
        return None
    limits = run.started.limits
    tokens = run.input_tokens + run.output_tokens
    for budget, limit, used in (
        ("steps", limits.steps, run.steps),
        ("tokens", limits.tokens, tokens),
        ("cost_usd", limits.cost_usd, run.cost_usd),
    ):
        if limit and used >= limit:
            return RunOverBudget(budget=budget, limit=limit, used=used)
    return None


def _holds(run: Run, epoch: int) -> bool:
    """Whether the run goes on in this epoch. Raises ``Fenced`` where a newer one holds it."""
    if run.epoch != epoch:
        message = f"run {run.id} is held by epoch {run.epoch}; this process had epoch {epoch}"
        raise Fenced(message)
    return run.ended is None
