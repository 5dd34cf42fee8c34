"""Drives one run under its lease: take it, make sure of its environment, let the agent work, end it, report.

The driver can die between any two events. Whoever takes the lease next loads the run, appends ``RunResumed`` and
goes on where the log ends: open calls are dispatched again (their receiver knows those that it has), the model is
asked again only if its last answer is not in the log. A driver that finds a newer epoch stops without a word.

Everything that waits, waits for ``changed``; limits of time are looked at twice a second.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar

import structlog

from events import subjects, tools
from events.calls import call_of_run
from events.content import Content, Inline
from events.envelope import CommandEnvelope
from events.environment import ExecuteTool, InterruptCall, PrepareEnvironment
from events.errors import Fenced, Transient
from events.kernel import Command, Event, replace
from events.run import (
    RUN_ENDS,
    Run,
    RunCancelled,
    RunEnd,
    RunFellSilent,
    RunSucceeded,
    RunTimedOut,
    RunUnprepared,
    StartRun,
    ToolCallRequested,
)
from events.task import AskQuestion, RecordRunFailed, RecordRunSucceeded, StageResult
from infra import semantics, telemetry
from infra.entities import Cause
from infra.ports import read_content
from services.agent_runner.deciders import run as decider
from services.agent_runner.ending import Ending, Unsettled, failure
from services.agent_runner.history import History
from services.agent_runner.plumbing import Plumbing
from services.agent_runner.reconciliation import reconcile
from services.agent_runner.snapshots import RunSnapshots

logger = structlog.get_logger()

T = TypeVar("T")

LOOK_SECONDS = 0.5
RESEND_SECONDS = 10.0
BUNDLE_SECONDS = 10.0


Work = Callable[["Driver"], Awaitable[None]]


class Driver:
    """``run`` and ``history`` are the present; ``epoch`` is what this process holds."""

    def __init__(self, plumbing: Plumbing, envelope: CommandEnvelope, command: StartRun) -> None:
        self.plumbing = plumbing
        self.command = command
        self.id = envelope.entity_id
        self.history = History(self.id, command.environment_id, command.task_id, self.changed)
        self.epoch = 0
        self._envelope = envelope
        self._trace = envelope.trace
        self.inspected = False
        self._working = False
        self._sent = 0
        self._decisions = 0
        self._waiter: asyncio.Future[None] | None = None
        self._scope: asyncio.Timeout | None = None
        self._resend_at = 0.0
        self._displaced = False
        self._snapshots = RunSnapshots(self.id, plumbing.snapshots)
        self._texts: dict[str, str] = {}
        self._spans: dict[str, telemetry.Span] = {}

    @property
    def run(self) -> Run:
        kept = self.plumbing.runs.peek(self.id)
        assert kept is not None
        return kept[0]

    async def drive(self, work: Work) -> None:
        """Take the run and see it to its end. ``work`` is the coroutine function of the agent's kind; it ends by
        raising ``Ending``. Raises ``Fenced`` where another process holds the run by then."""
        plumbing = self.plumbing
        plumbing.runs.forget(self.id)
        try:
            await self._load()
            if not await self._begin():
                self.history.leave(plumbing.watch)
                self.history = History(self.id, self.command.environment_id, self.command.task_id, self.changed)
                await self._load()
            with telemetry.span(
                f"invoke_agent {self.command.agent_name}",
                trace=self._trace,
                attributes={semantics.GEN_AI_OPERATION_NAME: "invoke_agent", "cairn.run": self.id},
            ) as span:
                self._trace = span.trace
                looking = asyncio.create_task(self._look())
                try:
                    await self._work(work)
                finally:
                    looking.cancel()
            await self._report()
            self._snapshots.remove()
        finally:
            self.history.leave(plumbing.watch)
            plumbing.runs.forget(self.id)

    async def _load(self) -> None:
        plumbing = self.plumbing
        await self._snapshots.load(self.history, plumbing.runs, plumbing.log, plumbing.watch, self.command.forked_from)

    async def _work(self, work: Work) -> None:
        if self.run.ended is not None:
            return
        try:
            self.raise_if_stopped()
            while True:
                await self._prepared()
                if await reconcile(self):
                    await self._go_on(work)
        except Ending as ending:
            event = ending.event
            if isinstance(event, RunSucceeded):
                await self._bundled()
            for call in self.open_calls():
                self._cast(InterruptCall(call_id=call.call_id, reason=RUN_ENDS[type(event)]), call.call_id + "-i")
            await self.decide(lambda run: decider.end(run, self.epoch, event))

    async def _go_on(self, work: Work) -> None:
        """Let the agent work for as long as its workspace is what the log tells."""
        self._working = True
        try:
            await work(self)
        except Unsettled:
            logger.warning("unsettled", run=self.id)
        finally:
            self._working = False

    # ---- deciding

    async def decide(self, decide: Callable[[Run], Sequence[Event]]) -> tuple[Event, ...]:
        self._decisions += 1
        cause = Cause(
            # Two processes that take the run at once must not take each other's decisions for their own.
            id=f"{self.id}-{self.plumbing.runner}-{self.epoch}-{self._decisions}",
            actor=self.plumbing.runner,
            correlation=self._envelope.correlation or self._envelope.id,
            causation=self._envelope.id,
            trace=self._trace,
        )
        decision = await self.plumbing.runs.decide(self.id, cause, decide)
        self.history.add_own(decision.events, self.plumbing.clock.now())
        self._snapshots.keep(self.history, decision.state, self.plumbing.runs)
        return decision.events

    async def _begin(self) -> bool:
        """Take the run. False where its holder until then got further since it was loaded: then the history lacks
        something."""
        plumbing = self.plumbing
        loaded = decided_on = self.run
        system = plumbing.system_prompt(self.command.agent)
        self.epoch = self.run.epoch + 1
        waiting, after = bool(self.open_calls()), self.history.last_result(self.run)
        host = await self._present_host()

        def begin(run: Run) -> Sequence[Event]:
            nonlocal decided_on
            decided_on = run
            return decider.begin(
                run,
                self.command,
                host=host,
                runner=plumbing.runner,
                system=system,
                waiting=waiting,
                after=after,
            )

        await self.decide(begin)
        self.epoch = self.run.epoch
        logger.info("taken", run=self.id, epoch=self.epoch, after=self.run.last)
        return decided_on is loaded

    # ---- the environment and its calls

    async def _present_host(self, *, settled: bool = True) -> str:
        """Where the run's calls go: to the host of its environment while that one lives, else here."""
        environment, hosts = self.history.environment, self.plumbing.hosts
        is_gone = hosts.settled_gone if settled else hosts.is_gone
        begins_on = self._begins_on()
        if not environment.stands and begins_on not in ("", self.plumbing.host):
            return self.plumbing.host if await is_gone(begins_on) else begins_on
        if not environment.stands or environment.prepared is None or environment.host == self.plumbing.host:
            return self.plumbing.host
        if environment.prepared.bundled and await is_gone(environment.host):
            return self.plumbing.host
        return environment.host

    def _begins_on(self) -> str:
        """The host where the checkpoint lies that a workspace is to begin with; empty where any will do."""
        environment = self.history.environment
        if environment.prepared is None or not environment.begins_from(self.command.bases):
            return self.command.host
        return environment.only_on

    async def _prepared(self) -> None:
        """Make sure that the workspace stands where the run's calls go."""

        def stands() -> bool:
            environment = self.history.environment
            here = environment.stands and environment.host == self.run.host
            return here and environment.begins_from(self.command.bases)

        command = PrepareEnvironment(
            task_id=self.command.task_id,
            repository_url=self.command.repository_url,
            base_branch=self.command.base_branch,
            bases=self.command.bases,
            sources=self.command.sources,
            restore=self.command.restore,
            restore_source=self.command.restore_source,
            secrets=self.command.secrets,
            isolation=self.command.isolation,
            sandbox=self.command.sandbox,
        )
        if not stands():
            self.history.preparation_failure = None
            self.inspected = True  # It will be as its first or its last checkpoint has it.
            await self.send_to_environment(command, f"{self.id}-prepare")
        await self.until(lambda: stands() or self.history.preparation_failure is not None)
        failure = self.history.preparation_failure
        if failure is not None and not stands():
            raise Ending(RunUnprepared(cause=failure.cause, detail=failure.detail, retryable=failure.retryable))

    def open_calls(self) -> list[ToolCallRequested]:
        """The calls of the last turn without a result, but for ``submit``, which has none."""
        result_of = self.history.conversation.result_of
        return [call for call in self.run.calls if call.tool != "submit" and result_of(call.call_id) is None]

    async def results(self) -> None:
        """Dispatch the open calls and wait until each has its result."""
        open_calls = self.open_calls()
        if not open_calls:
            return
        for call in open_calls:
            await self._dispatch(call)
        await self.until(self._settled)
        for span in self._spans.values():
            span.end()
        self._spans.clear()

    def _settled(self) -> bool:
        return not self.open_calls()

    async def _dispatch(self, call: ToolCallRequested, *, again: bool = False) -> None:
        if call.tool == "ask_human":
            await self._ask(call)
            return
        if call.call_id not in self._spans:
            self._spans[call.call_id] = telemetry.started_span(
                f"execute_tool {call.tool}",
                trace=self._trace,
                attributes={semantics.GEN_AI_OPERATION_NAME: "execute_tool", semantics.GEN_AI_TOOL_NAME: call.tool},
            )
        command = call_of_run(self.run, call)
        if command.time_limit_seconds:
            command = replace(command, time_limit_seconds=max(1.0, self._seconds_left()))
        self._cast(
            command,
            call.call_id if not again else f"{call.call_id}-again-{self.epoch}-{self._resend_at:.0f}",
            trace=self._spans[call.call_id].trace,
        )

    async def send_to_environment(self, command: Command, name: str) -> None:
        environment = self.command.environment_id
        await self.send(subjects.ENVIRONMENT_MANAGER, self.run.host, "environment", environment, command, name)

    async def send(self, service: str, target: str, entity: str, id: str, command: Command, name: str) -> None:
        """Send durably; ``name`` need not be unique in what one holder of the run sends."""
        self._sent += 1
        command_id = f"{name}-{self.epoch}-{self._sent}"
        await self.plumbing.sender.send(
            service, target, entity, id, command, command_id=command_id, cause=self._cause()
        )

    async def _ask(self, call: ToolCallRequested) -> None:
        """Ask a person through the scheduler; take the answer where it is there already."""
        text = await read_content(self.plumbing.content, call.arguments)
        arguments = tools.decode_arguments(call.tool, text)
        assert isinstance(arguments, tools.AskHuman)
        await self.plumbing.sender.send(
            subjects.SCHEDULER,
            subjects.ANY,
            "task",
            self.command.task_id,
            AskQuestion(run_id=self.id, call_id=call.call_id, question=arguments.question),
            command_id=f"{call.call_id}-ask-{self.epoch}",
            cause=self._cause(),
        )

    def _cast(self, command: ExecuteTool | InterruptCall, command_id: str, *, trace: str = "") -> None:
        self.plumbing.sender.cast(
            subjects.ENVIRONMENT_MANAGER,
            self.run.host,
            subjects.CALL_TOKEN,
            self.command.environment_id,
            command,
            command_id=command_id,
            cause=self._cause(trace),
        )

    def _cause(self, trace: str = "") -> Cause:
        return Cause(
            id=self.id, correlation=self._envelope.correlation or self._envelope.id, trace=trace or self._trace
        )

    async def text_of(self, content: Content) -> str:
        """The text of a content; what the store keeps is fetched once, however often the model is shown it."""
        if isinstance(content, Inline):
            return content.text
        if content.digest not in self._texts:
            self._texts[content.digest] = await read_content(self.plumbing.content, content)
        return self._texts[content.digest]

    # ---- waiting

    def changed(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        obstructed = self._unsettled() or self._stopped() is not None
        if self._scope is not None and not self._scope.expired() and obstructed:
            self._scope.reschedule(asyncio.get_running_loop().time())

    def send_again_soon(self) -> None:
        """What was on its way may be lost: the open calls are sent again at the next look."""
        self._resend_at = 0.0

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until ``done``; raises ``Ending`` where the run is cancelled or out of time before."""
        self._resend_at = asyncio.get_running_loop().time() + RESEND_SECONDS
        while not done():
            if self._displaced:
                message = f"the environment of run {self.id} does not live on {self.run.host} any more"
                raise Transient(message, delay_seconds=0.0)
            await self._take_answers()
            self.raise_if_stopped()
            if done():
                return
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def interruptible(self, work: Callable[[], Awaitable[T]], *, limit_seconds: float) -> T:
        """Do ``work``, which is cut off where the run is cancelled, out of time, or silent for the limit."""
        self.raise_if_stopped()
        try:
            async with asyncio.timeout(limit_seconds or None) as scope:
                self._scope = scope
                return await work()
        except TimeoutError:
            self.raise_if_stopped()
            raise Ending(RunFellSilent(limit_seconds=limit_seconds)) from None
        finally:
            self._scope = None

    def raise_if_stopped(self) -> None:
        if self.run.epoch != self.epoch:
            message = f"run {self.id} is held by epoch {self.run.epoch}; this process had epoch {self.epoch}"
            raise Fenced(message)
        event = self._stopped()
        if event is not None:
            raise Ending(event)
        if self._unsettled():
            raise Unsettled

    def _unsettled(self) -> bool:
        environment = self.history.environment
        return self._working and (not environment.stands or environment.diverged is not None)

    def _stopped(self) -> RunEnd | None:
        task = self.history.task
        if task.ended is not None:
            reason = getattr(task.ended, "reason", "") or f"the task is {task.status}"
            return RunCancelled(reason=reason)
        if task.submitted is not None and self.id not in task.requests:
            return RunCancelled(reason="the task does not ask for this run any more")
        if self.command.limits.seconds and self._seconds_left() <= 0:
            return RunTimedOut(limit_seconds=self.command.limits.seconds)
        return None

    def _seconds_left(self) -> float:
        """Time that is left, folded from the log: a resume never resets it. Waiting, for people or for a runner, is
        free."""
        now = self.plumbing.clock.now()
        asked_at = self.history.waiting_for_people_since()
        waiting = now - asked_at if asked_at is not None else timedelta()
        used = now - (self.history.started_at or now) - self.history.uncounted - waiting
        return self.command.limits.seconds - used.total_seconds()

    async def _take_answers(self) -> None:
        """Until none is left: another may come in while one is being recorded."""
        while answered := self._answered_calls():
            call_id, answer = answered[0]
            await self.decide(partial(decider.receive_answer, epoch=self.epoch, call=call_id, answer=answer))

    def _answered_calls(self) -> list[tuple[str, str]]:
        """The open calls whose question a person has answered."""
        answers = {item.call_id: item.answer for item in self.history.task.questions if item.answer is not None}
        return [(call.call_id, answers[call.call_id]) for call in self.open_calls() if call.call_id in answers]

    async def _look(self) -> None:
        """Wake what waits, so that limits of time are seen and calls that got lost are sent again."""
        while True:
            await self.plumbing.clock.sleep(LOOK_SECONDS)
            now = asyncio.get_running_loop().time()
            if self._working and self._waiter is not None and now >= self._resend_at:
                self._resend_at = now + RESEND_SECONDS
                await self._send_again()
            if self._stopped() is not None or await self._is_displaced():
                self.changed()

    async def _is_displaced(self) -> bool:
        """Whether the run's calls must go to another host from now on: whoever takes the run then sends them there."""
        if not self._displaced and (self.history.environment.prepared is not None or self.command.host):
            try:
                self._displaced = await self._present_host(settled=False) != self.run.host
            except Transient as error:
                logger.warning("hosts unknown", run=self.id, error=str(error))
        return self._displaced

    async def _send_again(self) -> None:
        """What got lost; but whoever stood still for too long and holds the run no more has nothing to send."""
        try:
            run, _ = await self.plumbing.runs.load(self.id)
            if run.epoch != self.epoch:
                self.changed()
                return
            for call in self.open_calls():
                if call.call_id not in self.history.environment.running:
                    await self._dispatch(call, again=True)
        except Transient as error:
            logger.warning("not sent again yet", run=self.id, error=str(error))

    # ---- the end

    async def _bundled(self) -> None:
        """Wait until another host could go on from here, before anybody relies on it. Not for ever where the host of
        the workspace lives: then it cannot be bundled."""

        def done() -> bool:
            environment = self.history.environment
            wanted = environment.prepared is not None and environment.prepared.bundled
            return not wanted or environment.bundled == environment.checkpoint

        while not done():
            try:
                async with asyncio.timeout(BUNDLE_SECONDS):
                    await self.until(done)
            except TimeoutError:
                if await self.plumbing.hosts.is_heard(self.run.host):
                    logger.warning("its last checkpoint lies on one host only", run=self.id, host=self.run.host)
                    return
            except Ending:
                logger.info("ended while it was being bundled", run=self.id)
                return

    async def _report(self) -> None:
        ended = self.run.ended
        assert ended is not None
        environment = self.history.environment
        command: RecordRunSucceeded | RecordRunFailed
        if isinstance(ended, RunSucceeded):
            result = StageResult(
                environment_id=environment.id, host=self.run.host, commit=ended.commit, summary=ended.summary
            )
            command = RecordRunSucceeded(stage=self.command.stage, run_id=self.id, result=result)
        else:
            command = failure(self.command.stage, self.id, ended, jitter=random.random())
        await self.plumbing.sender.send(
            subjects.SCHEDULER,
            subjects.ANY,
            "task",
            self.command.task_id,
            command,
            command_id=f"{self.id}-ended-{self.epoch}",
            cause=self._cause(),
        )
        logger.info("ended", run=self.id, status=self.run.status)
