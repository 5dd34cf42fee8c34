"""A driver with everything around it in memory: a model that says what a test lets it say, an environment that answers
calls, and a task that asks for the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from events.agents import Agent, Limits
from events.content import Inline
from events.envelope import CommandEnvelope
from events.environment import (
    ENVIRONMENT,
    EnvironmentInspected,
    ExecuteTool,
    InspectEnvironment,
    PrepareEnvironment,
    ReconcileEnvironment,
    ToolCallCompleted,
    WorkspaceDiverged,
    WorkspaceReconciled,
)
from events.kernel import Command, Event
from events.run import RUN, StartRun
from events.task_state import TASK
from infra.entities import Cause, EntityStore
from infra.hosts import Hosts
from infra.memory.plumbing import Memory
from infra.sender import Sender
from services.agent_runner import model_loop
from services.agent_runner.breakers import Breakers
from services.agent_runner.driver import Driver
from services.agent_runner.plumbing import Plumbing
from services.agent_runner.ports import CallAsked, ModelAnswer, ModelRequest
from services.agent_runner.watch import Watch
from services.scheduler.deciders import task as task_decider
from tests.clocks import MovedClock
from tests.unit import examples
from tests.unit.environment_twins import PREPARED

RUN_ID = "shop-1-development-1"
SUBMIT = CallAsked(tool="submit", arguments='{"summary": "Mended."}')
LIST = CallAsked(tool="list_files", arguments="{}")
ASK = CallAsked(tool="ask_human", arguments='{"question": "Which?"}')


class TalkingModel:
    """Says one answer after another; where there is none, it thinks until ``say``."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[ModelAnswer] = asyncio.Queue()
        self.asked: list[ModelRequest] = []

    def say(self, *calls: CallAsked) -> None:
        self.answers.put_nowait(ModelAnswer(calls=calls))

    async def respond(self, request: ModelRequest) -> ModelAnswer:
        self.asked.append(request)
        return await self.answers.get()


class AnsweringBus:
    """Keeps every command, and does what the environment-manager would do. ``answering`` is off: calls stay open.
    ``found`` is what it finds where it looks at the workspace."""

    def __init__(self, environments: EntityStore[object]) -> None:
        self.commands: list[Command] = []
        self.answering = True
        self.found: tuple[WorkspaceDiverged, ...] = ()
        self._environments = environments
        self._working: set[asyncio.Task[object]] = set()

    async def send(self, service: str, target: str, envelope: CommandEnvelope) -> bool:
        self.cast(service, target, envelope)
        return True

    def cast(self, service: str, target: str, envelope: CommandEnvelope) -> None:
        command = envelope.command
        self.commands.append(command)
        if isinstance(command, PrepareEnvironment):
            self._append(envelope, PREPARED)
        elif isinstance(command, InspectEnvironment):
            self._append(envelope, *self.found, EnvironmentInspected(inspection_id=command.inspection_id))
        elif isinstance(command, ReconcileEnvironment):
            self.found = ()
            self._append(envelope, WorkspaceReconciled(choice=command.choice, checkpoint="c9", tree="t9"))
        elif isinstance(command, ExecuteTool) and self.answering:
            self._append(envelope, ended(command.call_id))

    def _append(self, envelope: CommandEnvelope, *events: Event) -> None:
        decide = self._environments.decide(envelope.entity_id, Cause(id=f"{envelope.id}-done"), lambda state: events)
        task = asyncio.create_task(decide)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    def sent(self, kind: type[Command]) -> list[Command]:
        return [command for command in self.commands if isinstance(command, kind)]


def ended(call_id: str) -> ToolCallCompleted:
    return ToolCallCompleted(
        call_id=call_id, run_id=RUN_ID, tool="t", duration_ms=1, content=Inline("result"), checkpoint="c1", tree="t1"
    )


class Runs:
    """``clock`` can be moved; ``drive`` begins one more driver of the same run, as another process would."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.memory = Memory()
        self.clock = MovedClock()
        self.model = TalkingModel()
        self.tasks = EntityStore(self.memory.log, TASK, self.clock)
        self.environments = EntityStore(self.memory.log, ENVIRONMENT, self.clock)
        self.bus = AnsweringBus(self.environments)  # type: ignore[arg-type]
        self.command = StartRun(
            task_id="shop-1",
            stage="development",
            attempt=1,
            environment_id="shop-1-development",
            agent_name="coder",
            agent=examples.AGENT,
            prompt="Mend it.",
            limits=limits or Limits(steps=50),
            repository_url="/repositories/shop",
        )
        self.configured: dict[str, Agent] = {}
        self._count = 0

    async def ask_for_the_run(self) -> None:
        """The task is submitted, and its run requested."""
        project = examples.settings()
        await self.decide_task(
            lambda task: task_decider.submit(task, examples.submit(), number=1, submission_id="s1", project=project)
        )
        await self.decide_task(lambda task: task_decider.start_stage(task, examples.start(), prompt="Mend it."))

    async def decide_task(self, decide) -> None:  # type: ignore[no-untyped-def]
        self._count += 1
        await self.tasks.decide("shop-1", Cause(id=f"task-{self._count}"), decide)

    async def plumbing(self) -> Plumbing:
        """As a process has it."""
        self._count += 1
        watch = Watch(self.memory.log)
        await watch.start()
        return Plumbing(
            log=self.memory.log,
            runs=EntityStore(self.memory.log, RUN, self.clock),
            content=self.memory.content,
            sender=Sender(self.bus, self.clock, tenant="default", name="agent-runner"),  # type: ignore[arg-type]
            clock=self.clock,
            watch=watch,
            open_model=lambda agent: self.model,
            system_prompt=lambda agent: getattr(agent, "instructions", "") or "Be good.",
            configured=self.configured.get,
            host="here",
            runner=f"runner-{self._count}",
            backoff_seconds=0.01,
            breakers=Breakers(self.memory.log, watch),
            hosts=Hosts(self.memory.hosts, self.clock, own="here", lease_seconds=15.0),
        )

    def envelope(self) -> CommandEnvelope:
        return CommandEnvelope(
            id="start", tenant="default", entity="run", entity_id=RUN_ID, time=self.clock.now(), command=self.command
        )

    async def drive(self) -> asyncio.Task[None]:
        driver = Driver(await self.plumbing(), self.envelope(), self.command)
        return asyncio.create_task(driver.drive(model_loop.work))

    async def events(self) -> Sequence[Event]:
        return [event for record in await self.memory.log.load("run", RUN_ID) for event in record.envelope.events]
