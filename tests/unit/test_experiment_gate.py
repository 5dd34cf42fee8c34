"""The resilience gate: asked of the environment as an experiment, answered with what was found."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import msgspec
import pytest

from events import tools
from events.calls import call_of_check
from events.content import Inline
from events.environment import ENVIRONMENT, ExecuteTool, ToolCallCompleted, ToolCallFailed
from events.errors import Invalid
from events.experiment import (
    EXPERIMENT,
    AbortRequested,
    ExperimentAborted,
    ExperimentCompleted,
    ExperimentDeviated,
    ExperimentRefused,
    ExperimentRequested,
    ExperimentValidated,
    FaultInjected,
    FaultIntended,
    Finding,
    RunExperiment,
)
from events.kernel import Command, Event
from events.pipeline import ExperimentGate, Pipeline, Stage, TestsGate, checked
from events.systems import SystemStopped
from events.task import CheckRequested, RecordCheck, StageRolledBack
from infra.entities import Cause, EntityStore
from services.environment_manager.experiments import Experiments
from services.environment_manager.operations import Asked, Done, Operations
from services.scheduler.deciders import task as decider
from tests.unit.environment_twins import Environments
from tests.unit.examples import NOW, kinds
from tests.unit.test_task_decider import begin, submitted, succeed
from tests.waiting import until

RESILIENT = checked(
    Pipeline(
        name="resilient",
        stages=(
            Stage(name="work", role="developer"),
            Stage(
                name="test",
                needs=("work",),
                role="tester",
                tools=("compose", "faults"),
                gate=ExperimentGate(document="chaos/worker.yaml", time_limit_seconds=300),
                rollback_to="work",
            ),
        ),
    )
)
FINDINGS = "experiment x deviated: 3 of 40 samples failed\n- jobs 7, 9 are lost"


def check_requested() -> tuple[object, CheckRequested]:
    story = submitted(pipeline=RESILIENT)
    begin(story, "work")
    succeed(story, "work")
    begin(story, "test")
    succeed(story, "test")
    (request,) = story.state.requests.values()
    assert isinstance(request, CheckRequested)
    return story, request


def test_the_gate_asks_for_the_experiment_in_the_testers_workspace() -> None:
    """The check is a call of the tool run_experiment, which no stage but the gate needs to have opened."""
    _, request = check_requested()
    call = call_of_check(request, "shop-1")
    assert (request.kind, request.environment_id, request.command) == (
        "experiment",
        "shop-1-test",
        "chaos/worker.yaml",
    )
    assert isinstance(call.arguments, Inline)
    assert msgspec.json.decode(call.arguments.text)["path"] == "chaos/worker.yaml"
    assert (call.tool, call.check_stage, call.retry, call.time_limit_seconds) == (
        "run_experiment",
        "test",
        "idempotent",
        300,
    )
    assert tools.not_allowed(call.tool, call.groups) == ""


def test_a_system_that_holds_lets_the_stage_pass() -> None:
    """And with it the task."""
    story, request = check_requested()
    answer = RecordCheck(stage="test", check_id=request.check_id, passed=True, summary="The system holds.")
    events = story.when(lambda task: decider.record_check(task, answer))  # type: ignore[attr-defined]
    assert kinds(events) == ["GatePassed", "StagePassed", "TaskCompleted"]


def test_a_system_that_does_not_hold_goes_back_with_the_findings() -> None:
    """The developer's stage is told which jobs were lost."""
    story, request = check_requested()
    answer = RecordCheck(
        stage="test", check_id=request.check_id, passed=False, summary="The system does not hold.", detail=FINDINGS
    )
    events = story.when(lambda task: decider.record_check(task, answer))  # type: ignore[attr-defined]
    back = next(event for event in events if isinstance(event, StageRolledBack))
    assert (back.to, "jobs 7, 9 are lost" in back.findings) == ("work", True)


def test_an_experiment_without_an_answer_never_advances() -> None:
    """It is asked again, under another id, so that it is another experiment."""
    story, request = check_requested()
    answer = RecordCheck(stage="test", check_id=request.check_id, passed=None, summary="The experiment gave no answer")
    events = story.when(lambda task: decider.record_check(task, answer))  # type: ignore[attr-defined]
    assert kinds(events) == ["GateUnevaluated", "CheckRequested"]
    assert events[1].check_id != request.check_id


def test_a_gate_needs_its_document() -> None:
    """A pipeline that names none is refused before anything runs."""
    stages = (Stage(name="work", role="developer", gate=ExperimentGate(document=" ")),)
    with pytest.raises(Invalid, match="has no document"):
        checked(Pipeline(name="p", stages=stages))
    assert checked(Pipeline(name="p", stages=(Stage(name="work", role="developer", gate=TestsGate()),)))


# ---- the tools in the environment-manager

REQUESTED = ExperimentRequested(document="{}", title="t", target=Environments.id, host="here")
VALID = ExperimentValidated(faults=(), deadline=NOW)
INTENDED = FaultIntended(
    fault_id="f",
    step=0,
    fault={"kind": "kill_service", "service": "worker", "duration_seconds": 30},
    containers=("worker-1",),
    ends_at=NOW,
)
LOST = (Finding(kind="samples-failed", about="jobs", text="jobs 7, 9 are lost", recommendation="retry"),)


def sent(environments: Environments, kind: type[Command]) -> list[Command]:
    """The commands of a kind that the environment-manager has sent."""
    return [item.command for item in environments.bus.sent if isinstance(item.command, kind)]


def _say(event: Event, state: object) -> tuple[Event, ...]:
    return (event,)


class Answering:
    """An environment-manager with the tools of experiments, and a chaos service that says what a test has it say."""

    def __init__(self, home: Path, *said: Event, systems: Operations | None = None) -> None:
        self.environments = Environments(home)
        plumbing = self.environments.plumbing
        experiments = Experiments(plumbing.log, plumbing.sender, host="here", systems=systems or {})
        object.__setattr__(plumbing, "operations", {**plumbing.operations, **experiments.operations()})
        (home / Environments.id / "workspace").mkdir()
        (home / Environments.id / "workspace" / "x.yaml").write_text("title: t\n")
        self.said = said

    async def call(self, tool: str, arguments: str, *, check: str = "") -> object:
        """The end of the call, after chaos has said everything."""
        await self.environments.stand()
        command = ExecuteTool(
            call_id="c1",
            run_id="r1",
            task_id="shop-1",
            tool=tool,
            arguments=Inline(arguments),
            effects="external",
            retry="idempotent",
            groups=("faults",),
            check_stage=check,
        )
        self.environments.executor.begin(Environments.id, command, Cause(id="c1"))
        store = EntityStore(self.environments.memory.log, EXPERIMENT, self.environments.clock)
        await until(lambda: sent(self.environments, RunExperiment))
        for number, event in enumerate(self.said):
            await store.decide("c1-experiment", Cause(id=f"said-{number}"), partial(_say, event))
            await asyncio.sleep(0.01)
        ended: ToolCallCompleted | ToolCallFailed = await until(self.ended)
        return ended

    async def ended(self) -> ToolCallCompleted | ToolCallFailed | None:
        records = await self.environments.memory.log.load(ENVIRONMENT.name, Environments.id)
        events = (event for record in records for event in record.envelope.events)
        return next((event for event in events if isinstance(event, ToolCallCompleted | ToolCallFailed)), None)


async def test_a_fault_tool_answers_when_it_holds(tmp_path: Path) -> None:
    """With whom it hits and when it ends; the request names the call, so that it can be asked again."""
    answering = Answering(tmp_path, REQUESTED, VALID, INTENDED, FaultInjected(fault_id="f", seconds=0.2))
    ended = await answering.call("kill_service", '{"service": "worker", "duration_seconds": 30}')
    assert isinstance(ended, ToolCallCompleted)
    assert isinstance(ended.content, Inline)
    assert ended.content.text.startswith("kill_service holds on worker-1; it is undone by itself at 00:00:00 UTC")
    asked = next(item for item in answering.environments.bus.sent if isinstance(item.command, RunExperiment))
    assert (asked.id, asked.entity_id) == ("c1-experiment", "c1-experiment")
    assert isinstance(asked.command, RunExperiment)
    assert (asked.command.target, asked.command.call_id) == (Environments.id, "c1")
    assert "wait" not in asked.command.document


async def test_nothing_is_missed_while_something_is_told(tmp_path: Path) -> None:
    """The verdict comes while the call's output is taking what came before it."""
    environments = await Environments(tmp_path).stand()
    log = environments.memory.log
    store = EntityStore(log, EXPERIMENT, environments.clock)
    for event in (REQUESTED, VALID):
        await store.decide("c1-experiment", Cause(id=kinds((event,))[0]), partial(_say, event))

    async def say(text: str) -> None:
        aborted = ExperimentAborted(cause="not-injected", summary="worker-1 does not run")
        await store.decide("c1-experiment", Cause(id="aborted"), partial(_say, aborted))
        await asyncio.sleep(0.05)

    arguments = msgspec.convert({"service": "worker", "duration_seconds": 30}, tools.FAULT_TOOLS["kill_service"])
    state, _ = await environments.plumbing.environments.load(Environments.id)
    command = ExecuteTool(call_id="c1", run_id="r1", task_id="", tool="kill_service", arguments=Inline("{}"))
    asked = Asked(environment=state, command=command, arguments=arguments, directory=tmp_path, variables={}, say=say)
    experiments = Experiments(log, environments.plumbing.sender, host="here", systems={})
    async with asyncio.timeout(5):
        done = await experiments.operations()[type(arguments)](asked)
    assert done.cause == "experiment-not-injected"


@pytest.mark.parametrize(
    ("said", "passed", "detail"),
    [
        ((VALID, ExperimentCompleted(summary="1 fault injected and undone")), True, "1 fault injected"),
        ((VALID, ExperimentDeviated(summary="lost", findings=LOST)), False, "jobs 7, 9 are lost\n  retry"),
        ((ExperimentRefused(cause="steady-state-not-met", detail="health: 500"),), False, "health: 500"),
        ((ExperimentRefused(cause="halted", detail="chaos is halted"),), None, ""),
        ((VALID, ExperimentAborted(cause="guard", summary="a guard tripped", findings=LOST)), False, "jobs 7, 9"),
        (
            (VALID, AbortRequested(cause="asked"), ExperimentAborted(cause="asked", summary="aborted by ada")),
            None,
            "aborted by ada",
        ),
    ],
)
async def test_verdicts_become_the_gates_answer(
    tmp_path: Path, said: tuple[Event, ...], passed: bool | None, detail: str
) -> None:
    """What says something about the system is a yes or a no; what does not is neither."""
    answering = Answering(tmp_path, REQUESTED, *said)
    await answering.call("run_experiment", '{"path": "x.yaml"}', check="test")
    await until(lambda: sent(answering.environments, RecordCheck))
    (found,) = sent(answering.environments, RecordCheck)
    assert isinstance(found, RecordCheck)
    assert (found.passed, detail in found.detail) == (passed, True)


@pytest.mark.parametrize("path", ["../x.yaml", "nothing.yaml", "/etc/passwd"])
async def test_the_document_is_in_the_workspace(tmp_path: Path, path: str) -> None:
    """Nothing outside of it is read, and chaos is not asked."""
    answering = Answering(tmp_path)
    answering.environments.bus.sent.clear()
    calling = asyncio.create_task(answering.call("run_experiment", msgspec.json.encode({"path": path}).decode()))
    assert isinstance(await until(answering.ended), ToolCallFailed)
    calling.cancel()
    assert answering.environments.bus.sent == []


class Systems:
    """Operations that bring a system up and down, and remember it."""

    def __init__(self, started: Done) -> None:
        self.done: list[str] = []
        self._started = started

    def operations(self) -> Operations:
        return {tools.ComposeUp: self._up, tools.ComposeDown: self._down}

    async def _up(self, asked: Asked) -> Done:
        self.done.append("up")
        return self._started

    async def _down(self, asked: Asked) -> Done:
        assert isinstance(asked.arguments, tools.ComposeDown)
        self.done.append("down with data" if asked.arguments.volumes else "down")
        return Done(facts=(SystemStopped(reason="compose_down", volumes=True),))


async def test_a_fresh_system(tmp_path: Path) -> None:
    """What is left of before goes, data too; the system comes up for the experiment and is taken down after it."""
    systems = Systems(Done())
    said = (REQUESTED, VALID, ExperimentCompleted(summary="held"))
    answering = Answering(tmp_path, *said, systems=systems.operations())
    await answering.call("run_experiment", '{"path": "x.yaml", "fresh": true}', check="test")
    await until(lambda: sent(answering.environments, RecordCheck))
    assert systems.done == ["down with data", "up", "down with data"]
    records = await answering.environments.memory.log.load(ENVIRONMENT.name, Environments.id)
    told = [type(event).__name__ for record in records for event in record.envelope.events]
    assert told.count("SystemStopped") == 2


@pytest.mark.parametrize(
    ("cause", "passed", "done"),
    [("system-unhealthy", False, ["down with data", "up", "down with data"]), ("engine-unavailable", None, None)],
)
async def test_a_system_that_does_not_come_up(
    tmp_path: Path, cause: str, passed: bool | None, done: list[str] | None
) -> None:
    """That is the system's own and a no, but where the engine is what fails; no fault is asked for."""
    systems = Systems(Done(cause=cause, detail="service api is unhealthy"))
    answering = Answering(tmp_path, systems=systems.operations())
    calling = asyncio.create_task(answering.call("run_experiment", '{"path": "x.yaml", "fresh": true}', check="test"))
    await until(lambda: sent(answering.environments, RecordCheck))
    calling.cancel()
    (found,) = sent(answering.environments, RecordCheck)
    assert isinstance(found, RecordCheck)
    assert found.passed is passed
    assert "service api is unhealthy" in f"{found.summary} {found.detail}"
    assert sent(answering.environments, RunExperiment) == []
    assert done in (None, systems.done)


async def test_what_is_left_of_before_is_waited_for(tmp_path: Path) -> None:
    """A refusal that passes by itself is no answer: the experiment is asked for again, under another id."""
    busy = ExperimentRefused(cause="busy", detail="kill_service is under way")
    answering = Answering(tmp_path, REQUESTED, busy)
    calling = asyncio.create_task(answering.call("run_experiment", '{"path": "x.yaml"}', check="test"))
    await until(lambda: len(sent(answering.environments, RunExperiment)) == 2)
    assert [item.entity_id for item in answering.environments.bus.sent][-1] == "c1-experiment-2"
    store = EntityStore(answering.environments.memory.log, EXPERIMENT, answering.environments.clock)
    for event in (REQUESTED, VALID, ExperimentCompleted(summary="held")):
        await store.decide("c1-experiment-2", Cause(id=type(event).__name__), partial(_say, event))
    ended = await calling
    assert isinstance(ended, ToolCallCompleted)
    assert isinstance(ended.content, Inline)
    assert "completed: held" in ended.content.text
