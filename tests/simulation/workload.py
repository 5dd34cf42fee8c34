"""Tasks by seed: what they depend on, what their agents do turn by turn, what people answer, how each is to end.

An agent is a script: which answer comes next depends only on the stage, the attempt and how many answers there were,
as it is with a model of temperature 0. What it was shown each time is kept, for a checker to compare with the log.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from events.agents import Agent, Limits, ModelAgent, ProgramAgent
from events.content import Inline
from events.conversation import Message, UserText
from events.envelope import CommandEnvelope, Outcome, Recorded
from events.errors import CairnError
from events.kernel import Command
from events.pipeline import Pipeline, PullRequestGate, Stage, TestsGate
from events.project import AddProject, ProjectSettings, Repository
from events.run import ModelResponded, ToolCallRequested
from events.task import (
    AnswerQuestion,
    ApprovalRequested,
    ApproveStage,
    CancelTask,
    DivergenceReported,
    ForkRun,
    QuestionAsked,
    RejectStage,
    ResolveDivergence,
    RetryTask,
    SubmitTask,
    TaskBlocked,
    TaskCancelled,
    TaskFailed,
    TaskSpecification,
    TaskSubmitted,
)
from services.agent_runner.ports import CallAsked, ModelAnswer, ModelRequest, ModelUnavailable
from tests.simulation.network import Network, Process
from tests.simulation.world import REPOSITORY, Errand

PROJECT = "shop"
ATTEMPTS = 3
REWORK_LIMIT = 2
LIMITS = Limits(steps=100, seconds=7200.0, idle_seconds=3600.0)


@dataclass
class Assignment:
    """A task as it is given, and what is known of it beforehand. ``bad_attempts`` of the agent leave work that the
    gate refuses; ``rejections`` is how often a person says no. Where it stops without being completed, a person may
    have it tried again, once, ``retried_after`` some time; ``forked_after`` its first step, one of its runs is
    forked. ``forks`` are the tasks that go on from where it had diverged."""

    key: str
    title: str
    depends_on: tuple[str, ...]
    submit_at: float
    agent: str
    bad_attempts: int
    rejections: int
    cancel_after: float | None
    turns: list[list[tuple[str, float]]]
    retried_after: float | None = None
    forked_after: float | None = None
    id: str = ""
    seen: dict[tuple[str, int, int], list[list[Message]]] = field(default_factory=dict)
    forks: list[str] = field(default_factory=list)

    @property
    def expected(self) -> str:
        """How it ends where nobody cancels it and nothing is lost for good."""
        return "blocked" if self.agent == "model" and self.bad_attempts > REWORK_LIMIT else "completed"


CALLS = ("shell", "shell", "shell", "write_file", "write_file", "read_file", "list_files", "noop-unknown", "invalid")
EXTERNAL_CALLS = ("external_never", "external_idempotent", "external_probe")


class Workload:
    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.assignments: list[Assignment] = []
        self.external_calls = EXTERNAL_CALLS if hasattr(ModelAgent(provider=""), "tools") else ()
        self.approval = chance.random() < 0.3
        self.review = chance.random() < 0.4
        self.publishes = chance.random() < 0.8
        self.agents_at_once = chance.choice((1, 2, 3))
        self.project_agents_at_once = chance.choice((1, 2))
        for number in range(chance.choice((1, 2, 2, 3, 3, 4))):
            self.assignments.append(self._assignment(number))
        self.by_title = {item.title: item for item in self.assignments}

    def _assignment(self, number: int) -> Assignment:
        chance = self._chance
        earlier = [item.key for item in self.assignments if item.expected == "completed" and item.cancel_after is None]
        return Assignment(
            key=f"k{number}",
            title=f"Task number {number}",
            depends_on=tuple(key for key in earlier if chance.random() < 0.3),
            submit_at=chance.random() * 3,
            agent=chance.choice(("model", "model", "model", "program")),
            bad_attempts=chance.choice((0, 0, 0, 0, 1, 1, 2, 9)),
            rejections=chance.choice((0, 0, 1)),
            cancel_after=chance.uniform(0.0, 8.0) if chance.random() < 0.1 else None,
            turns=[self._turn() for _ in range(chance.choice((1, 2, 3)))],
            retried_after=chance.uniform(0.1, 5.0) if chance.random() < 0.3 else None,
            forked_after=chance.uniform(0.1, 10.0) if chance.random() < 0.1 else None,
        )

    def fork(self, source: Assignment, agent: str) -> Assignment:
        """A task that goes on from a step of another one's. Only the conversation tells a model which one it is."""
        number = len(self.assignments)
        fork = replace(
            source,
            key=f"k{number}",
            title=f"Fork number {number}",
            agent=agent,
            bad_attempts=0,
            cancel_after=None,
            forked_after=None,
            id="",
            seen={},
        )
        self.assignments.append(fork)
        self.by_title[fork.title] = fork
        return fork

    def fork_diverged(self, source: Assignment, id: str) -> None:
        """Task ``id`` goes on from where ``source`` had diverged: with the same script, under the same title."""
        source.forks.append(id)
        number = len(self.assignments)
        fork = replace(source, key=f"k{number}", cancel_after=None, forked_after=None, id=id, seen={}, forks=[])
        self.assignments.append(fork)

    def _turn(self) -> list[tuple[str, float]]:
        chance = self._chance
        if chance.random() < 0.05:
            return []
        kinds = [chance.choice((*CALLS, *self.external_calls)) for _ in range(chance.choice((1, 1, 2, 3)))]
        if chance.random() < 0.1:
            kinds.append("ask_human")
        return [(kind, chance.choice((0.05, 0.2, 1.0))) for kind in kinds]

    @property
    def pipeline(self) -> Pipeline:
        """Work, perhaps a review by another agent, tests, perhaps a person, as a rule publishing."""
        review = (Stage(name="review", needs=("development",), role="reviewer"),) if self.review else ()
        before = "review" if self.review else "development"
        return Pipeline(
            name="simulated",
            stages=(
                Stage(name="development", role="developer", time_limit_seconds=7200.0, idle_limit_seconds=3600.0),
                *review,
                Stage(
                    name="test",
                    needs=(before,),
                    gate=TestsGate(command="check"),
                    rollback_to="development",
                    rollback_limit=REWORK_LIMIT,
                    approval=self.approval,
                ),
                *((Stage(name="publish", needs=("test",), gate=PullRequestGate()),) if self.publishes else ()),
            ),
        )

    @property
    def project(self) -> ProjectSettings:
        return ProjectSettings(
            repository=Repository(url=REPOSITORY),
            prefix=PROJECT,
            agents_at_once=self.project_agents_at_once,
            max_attempts=ATTEMPTS,
            pipeline=self.pipeline,
            roles={"developer": "model", "reviewer": "model"},
        )

    @property
    def agents(self) -> dict[str, Agent]:
        return {
            "model": ModelAgent(provider="openai", key="env:NONE", limits=LIMITS, **self._own_tools()),
            "program": ProgramAgent(command=("program", "{prompt}"), limits=LIMITS),
        }

    def _own_tools(self) -> dict[str, Any]:
        if not self.external_calls:
            return {}
        from events.agents import CommandTool

        return {
            "tools": {
                "external_never": CommandTool(description="", command=("external",)),
                "external_idempotent": CommandTool(description="", command=("external",), retry="idempotent"),
                "external_probe": CommandTool(description="", command=("external",), retry="probe", probe=("probe",)),
            }
        }

    def answer(self, request: ModelRequest) -> ModelAnswer:
        """The next answer of the agent whose conversation this is."""
        headings = [item.text.partition("\n")[0] for item in request.messages if isinstance(item, UserText)]
        titles = [text.removeprefix("# Task: ") for text in headings if text.startswith("# Task: ")]
        assignment = self.by_title[titles[-1]]
        assignment.seen.setdefault((request.stage, request.attempt, request.turn), []).append(list(request.messages))
        number = request.turn
        turns = assignment.turns if request.stage == "development" else assignment.turns[:1]
        place = f"{assignment.key}-{request.stage}-{request.attempt}-{number}"
        if number < len(turns):
            return _answer(place, [_call(kind, seconds, place, n) for n, (kind, seconds) in enumerate(turns[number])])
        if number == len(turns) and request.stage == "development":
            verdict = "bad" if request.attempt <= assignment.bad_attempts else "good"
            return _answer(place, [("shell", {"command": Errand(f"{place}-last", 0.1, verdict=verdict).command})])
        return _answer(place, [("submit", {"summary": f"done by {place}"})])


def written_path(call: ToolCallRequested) -> str:
    """The file that a call of ``write_file`` names."""
    assert isinstance(call.arguments, Inline)
    return str(msgspec.json.decode(call.arguments.text)["path"])


def _call(kind: str, seconds: float, place: str, number: int) -> tuple[str, dict[str, Any] | str]:
    name = f"{place}-{number}"
    match kind:
        case "shell":
            return "shell", {"command": Errand(name, seconds, exit_code=number % 2).command}
        case "write_file":
            return "write_file", {"path": name, "content": "text"}
        case "read_file":
            return "read_file", {"path": "readme"}
        case "ask_human":
            return "ask_human", {"question": f"What about {name}?"}
        case "invalid":
            return "shell", "{ cut off"
        case "noop-unknown":
            return "teleport", {}
        case _:
            return kind, {}


def _answer(place: str, calls: list[tuple[str, dict[str, Any] | str]]) -> ModelAnswer:
    return ModelAnswer(
        text=f"This is {place}.",
        calls=tuple(
            CallAsked(
                tool=tool,
                arguments=arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode(),
                provider_call_id=f"{place}-{number}",
            )
            for number, (tool, arguments) in enumerate(calls)
        ),
        stop_reason="tool_use" if calls else "end_turn",
        model="simulated",
        input_tokens=10,
        output_tokens=5,
    )


class SimulatedModels:
    """Models that answer from the workload's scripts, and flinch now and then, never so often that a run gives up."""

    def __init__(self, workload: Workload, process: Process) -> None:
        self._workload = workload
        self._process = process
        self._flinched = 0

    def open(self, agent: ModelAgent) -> SimulatedModels:
        return self

    async def close(self) -> None:
        """There is nothing to be closed."""

    async def respond(self, request: ModelRequest) -> ModelAnswer:
        async def effect() -> ModelAnswer:
            faults = self._process.network.faults
            if self._flinched < 3 and faults.strikes(faults.unreachable):
                self._flinched += 1
                message = "overloaded"
                raise ModelUnavailable(message, cause="overloaded", retry_after_seconds=0.2)
            self._flinched = 0
            await asyncio.sleep(0.05)
            return self._workload.answer(request)

        return await self._process.call(("model", request.stage, request.turn), effect, certain=True)


class People:
    """Those who give tasks, answer, approve, reject and cancel. What they want they say until they know the outcome."""

    def __init__(self, network: Network, workload: Workload) -> None:
        self._network = network
        self._workload = workload
        self._chance = random.Random(network.faults.random.random())
        self._numbers = 0
        self._rejected: dict[str, int] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.approved: set[tuple[str, str]] = set()
        self.cancelled: set[str] = set()
        self.abandoned: set[str] = set()
        self.retried: set[str] = set()
        self.outcomes: list[tuple[str, Outcome]] = []
        self._submissions: dict[str, str] = {}

    async def begin(self) -> None:
        await self._network.memory.log.follow(self._see, after=0, entities=("task", "run"))
        await self._insist("project", PROJECT, AddProject(settings=self._workload.project))
        for assignment in self._workload.assignments:
            self._start(self._submit(assignment))

    async def _submit(self, assignment: Assignment) -> None:
        await asyncio.sleep(assignment.submit_at)
        others = {item.key: item for item in self._workload.assignments}
        while any(not others[key].id for key in assignment.depends_on):  # noqa: ASYNC110 - virtual time costs nothing
            await asyncio.sleep(0.1)
        specification = TaskSpecification(
            project=PROJECT,
            title=assignment.title,
            depends_on=tuple(others[key].id for key in assignment.depends_on),
            agent=assignment.agent,
        )
        outcome = await self._insist("project", PROJECT, SubmitTask(specification=specification))
        assert outcome.accepted, outcome
        assignment.id = outcome.entity_id
        if assignment.cancel_after is not None:
            await asyncio.sleep(assignment.cancel_after)
            self.cancelled.add(assignment.id)
            await self._insist("task", assignment.id, CancelTask(reason="not wanted"))

    def _see(self, record: Recorded) -> None:
        id = record.envelope.entity_id
        assignment = next((item for item in self._workload.assignments if item.id == id), None)
        for event in record.envelope.events:
            if isinstance(event, ModelResponded):
                self._perhaps_fork(id, record.sequence)
            elif isinstance(event, DivergenceReported):
                self._start(self._resolve(id, event.run_id))
            elif isinstance(event, TaskSubmitted):
                self._submissions[event.submission_id] = id
            elif isinstance(event, TaskFailed | TaskBlocked | TaskCancelled):
                if assignment is not None and assignment.retried_after is not None and id not in self.retried:
                    self.retried.add(id)
                    self._start(self._retry(id, assignment.retried_after))
            elif isinstance(event, QuestionAsked):
                answer = AnswerQuestion(answer=f"As you like, {event.call_id}.", call_id=event.call_id)
                self._start(self._later("task", id, answer))
            elif isinstance(event, ApprovalRequested):
                self._start(self._later("task", id, self._judgement(id, event.stage)))

    async def _retry(self, id: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._insist("task", id, RetryTask())

    async def _resolve(self, id: str, run_id: str) -> None:
        """Choose. A fork plays the same script as its source, whose words are all that its model is shown: so only a
        first attempt is forked, which nobody tries again, and none that another agent reviews."""
        source = next((item for item in self._workload.assignments if item.id == id), None)
        choice = self._chance.choice(("restore", "accept", "abandon", "fork", "fork"))
        first = run_id == f"{id}-development-1" and id not in self.retried and not self._workload.review
        if choice == "fork" and (not first or source is None or self._workload.by_title[source.title] is not source):
            choice = "accept"
        if choice in ("abandon", "fork"):
            self.abandoned.add(id)
        if choice == "fork" and source is not None:
            source.retried_after = None
        command_id = await self._later("task", id, ResolveDivergence(run_id=run_id, choice=choice))
        if source is not None and command_id in self._submissions:
            self._workload.fork_diverged(source, self._submissions[command_id])

    def _perhaps_fork(self, run_id: str, sequence: int) -> None:
        """Fork a run at this step, if its task is to be forked. Where another agent reviews, nothing that it is shown
        tells it which of two tasks with one title it reviews."""
        task_id = run_id.rpartition("-")[0].rpartition("-")[0]
        source = next((item for item in self._workload.assignments if item.id == task_id), None)
        if source is None or source.forked_after is None or self._workload.review or self._chance.random() < 0.3:
            return
        seconds, source.forked_after = source.forked_after, None
        agent = self._chance.choice(("model", "model", "program"))
        self._start(self._fork(self._workload.fork(source, agent), source.id, run_id, sequence, seconds))

    async def _fork(self, fork: Assignment, task_id: str, run_id: str, sequence: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        command = ForkRun(run_id=run_id, sequence=sequence, prompt=f"# Task: {fork.title}\n", agent=fork.agent)
        outcome = await self._insist("task", task_id, command)
        assert outcome.accepted, outcome
        fork.id = outcome.entity_id

    def _judgement(self, id: str, stage: str) -> Command:
        assignment = next((item for item in self._workload.assignments if item.id == id), None)
        rejections = assignment.rejections if assignment is not None else 0
        if self._rejected.get(id, 0) < rejections:
            self._rejected[id] = self._rejected.get(id, 0) + 1
            return RejectStage(stage=stage, reason="once more")
        self.approved.add((id, stage))
        return ApproveStage(stage=stage)

    async def _later(self, entity: str, id: str, command: Command) -> str:
        """Answers the id that the command had."""
        await asyncio.sleep(self._chance.choice((0.01, 0.5, 3.0)))
        command_id = f"person-{self._numbers + 1}"
        await self._insist(entity, id, command)
        return command_id

    async def _insist(self, entity: str, id: str, command: Command) -> Outcome:
        self._numbers += 1
        envelope = CommandEnvelope(
            id=f"person-{self._numbers}",
            tenant="default",
            entity=entity,
            entity_id=id,
            time=self._network.memory.log._created_at,
            command=command,
            actor="ann",
        )
        while True:
            try:
                outcome = await self._network.memory.commands.ask("scheduler", "any", envelope, timeout_seconds=5.0)
            except CairnError:
                outcome = None
            if outcome is not None:
                self._network.note("people", type(command).__name__, id, outcome.accepted, outcome.slug)
                self.outcomes.append((type(command).__name__, outcome))
                return outcome

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def unfinished(workload: Workload, statuses: Callable[[str], str]) -> Sequence[str]:
    """The tasks that are still to be waited for: those whose dependencies may yet complete, and that have not ended."""
    never: set[str] = set()
    left: list[str] = []
    for item in workload.assignments:
        status = statuses(item.id) if item.id else "unknown"
        if status in ("failed", "blocked", "cancelled") or never.intersection(item.depends_on):
            never.add(item.key)
        elif status != "completed":
            left.append(item.key)
    return left
