"""Executing calls: what is said in the log, in which order, and what becomes of calls that do not end by themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from events.content import Inline
from events.environment import ExecuteTool, InterruptCall, OrphanRemoved, ToolCallStarted, ToolCallUncertain
from events.errors import Transient
from events.systems import ServiceState, SystemStarted
from events.task import RecordCheck
from events.tools import Noop
from infra.entities import Cause
from services.environment_manager.keeper import Keeper
from services.environment_manager.operations import Asked, Done
from tests.unit.environment_twins import Environments
from tests.waiting import until

CAUSE = Cause(id="cause")


@pytest.fixture
async def environments(tmp_path: Path) -> Environments:
    return await Environments(tmp_path).stand()


def call(id: str, tool: str = "shell", effects: str = "workspace", **changes: object) -> ExecuteTool:
    arguments = '{"command": "make"}' if tool == "shell" else '{"text": "hello"}'
    return ExecuteTool(
        call_id=id,
        run_id="run-1",
        task_id="shop-1",
        tool=tool,
        arguments=Inline(arguments),
        effects=effects,
        **changes,  # type: ignore[arg-type]
    )


def begin(environments: Environments, command: ExecuteTool) -> asyncio.Task[None]:
    environments.executor.begin(environments.id, command, CAUSE)
    return environments.room().calls[command.call_id]


def started(id: str, *, effects: str = "workspace", retry: str = "never") -> ToolCallStarted:
    return ToolCallStarted(call_id=id, run_id="run-1", tool="noop", effects=effects, retry=retry)


async def test_call_is_started_in_the_log_and_names_its_checkpoint(environments: Environments) -> None:
    """Two decisions for a call with effects; the end carries the checkpoint where the workspace changed."""
    working = begin(environments, call("c1"))
    await until(lambda: environments.processes.started)
    assert await environments.events() == ["ToolCallStarted c1"]
    environments.workspaces.commit = "c2"
    environments.processes.end("c1")
    await working
    assert await environments.events() == ["ToolCallStarted c1", "ToolCallCompleted c1"]
    state, _ = await environments.plumbing.environments.load(environments.id)
    assert (state.checkpoint, state.tree) == ("c2", "tree of c2")


async def test_process_knows_the_services_that_are_composed(environments: Environments) -> None:
    """By their names, each once; where nothing is composed there are none."""
    services = tuple(ServiceState(service=name, container=name, status="running") for name in ("web", "api", "web"))
    up = SystemStarted(call_id="up", compose_file="compose.yaml", project="p", services=services)

    async def known(id: str) -> str:
        working = begin(environments, call(id))
        await until(lambda: id in environments.processes.started)
        environments.processes.end(id)
        await working
        return environments.processes.env[id]["CAIRN_SERVICES"]

    assert await known("c1") == ""
    await environments.executor.append(environments.id, Cause(id="up"), lambda state: (up,))
    assert await known("c2") == "api,web"


async def test_call_without_effects_costs_one_decision(environments: Environments) -> None:
    """To be uncertain about it would be harmless."""
    await begin(environments, call("c1", "noop", "none"))
    assert await environments.events() == ["ToolCallCompleted c1"]


async def test_tool_of_a_group_that_the_stage_does_not_open_is_refused(environments: Environments) -> None:
    """Whoever sent it: nothing is begun."""
    command = call("c1", "compose_up", "external", retry="idempotent", groups=("faults",))
    await begin(environments, command)
    assert await environments.events() == ["ToolCallFailed c1"]
    record = (await environments.memory.log.load("environment", environments.id))[-1]
    (failed,) = record.envelope.events
    assert failed.cause == "tool-not-allowed"  # type: ignore[attr-defined]


async def test_repeated_call_is_executed_once(environments: Environments) -> None:
    """Neither while it runs nor after it has ended."""
    working = begin(environments, call("c1"))
    await until(lambda: environments.processes.started)
    assert begin(environments, call("c1")) is working
    environments.processes.end("c1")
    await working
    await begin(environments, call("c1"))
    assert environments.processes.started == ["c1"]
    assert await environments.events() == ["ToolCallStarted c1", "ToolCallCompleted c1"]


async def test_interrupted_calls_end_and_those_that_wait_are_not_begun(environments: Environments) -> None:
    """A run that is over leaves nothing behind that would still change the workspace."""
    first, second = begin(environments, call("c1")), begin(environments, call("c2"))
    await until(lambda: environments.processes.started)
    await environments.executor.interrupt(environments.id, InterruptCall(call_id="c2", reason="timed_out"))
    await environments.executor.interrupt(environments.id, InterruptCall(call_id="c1", reason="timed_out"))
    await asyncio.wait([first, second])
    assert environments.processes.started == ["c1"]
    assert await environments.events() == ["ToolCallStarted c1", "ToolCallInterrupted c1", "ToolCallInterrupted c2"]


async def test_interruption_that_comes_while_a_process_is_started_is_not_lost(environments: Environments) -> None:
    """The process ends as soon as it is there."""
    working = begin(environments, call("c1"))
    await environments.executor.interrupt(environments.id, InterruptCall(call_id="c1", reason="cancelled"))
    await working
    assert (await environments.events())[-1] == "ToolCallInterrupted c1"
    assert not environments.processes.running


async def test_adopted_process_is_not_started_again(environments: Environments) -> None:
    """A predecessor started it; its result is taken up."""
    await environments.executor.append(environments.id, CAUSE, lambda state: (started("c1"),))
    await environments.processes.start(environments.id, "c1", (), env={}, limits=None)  # type: ignore[arg-type]
    working = begin(environments, call("c1"))
    await asyncio.sleep(0)
    environments.processes.end("c1")
    await working
    assert environments.processes.started == ["c1"]
    assert await environments.events() == ["ToolCallStarted c1", "ToolCallCompleted c1"]


async def test_lost_process_with_effects_on_the_workspace_is_executed_again(environments: Environments) -> None:
    """From the checkpoint before it, under a name of its own, and the log says so."""
    working = begin(environments, call("c1"))
    await until(lambda: environments.processes.started)
    environments.processes.lose("c1")
    await until(lambda: len(environments.processes.started) == 2)
    assert environments.workspaces.restored == ["c0"]
    environments.processes.end("c1.1")
    await working
    assert await environments.events() == ["ToolCallStarted c1", "ToolCallUncertain c1", "ToolCallCompleted c1"]


async def test_lost_process_with_other_effects_is_not_repeated(environments: Environments) -> None:
    """The agent is told, and the call is over."""
    working = begin(environments, call("c1", effects="external"))
    await until(lambda: environments.processes.started)
    environments.processes.lose("c1")
    await working
    assert environments.processes.started == ["c1"]
    assert await environments.events() == ["ToolCallStarted c1", "ToolCallUncertain c1", "ToolCallInterrupted c1"]


async def test_tool_that_is_no_process_is_executed_again_after_a_restore(environments: Environments) -> None:
    """Nobody knows how far a predecessor came with it."""
    await environments.executor.append(environments.id, CAUSE, lambda state: (started("c1"),))
    await begin(environments, call("c1", "noop"))
    assert environments.workspaces.restored == ["c0"]
    assert await environments.events() == ["ToolCallStarted c1", "ToolCallUncertain c1", "ToolCallCompleted c1"]


async def test_environment_that_does_not_stand_fails_its_calls(tmp_path: Path) -> None:
    """Whoever waits for them has to know."""
    environments = Environments(tmp_path)
    await begin(environments, call("c1"))
    records = await environments.memory.log.load("environment", environments.id)
    (failed,) = records[0].envelope.events
    assert failed.cause == "environment-missing"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("cause", "code", "passed"),
    [("exited", 0, True), ("exited", 1, False), ("exited", 127, None), ("timed-out", None, False)],
)
async def test_check_tells_the_scheduler(
    environments: Environments, cause: str, code: int | None, passed: bool | None
) -> None:
    """0 passes, another exit code does not, a command that is not found says nothing about the work."""
    working = begin(environments, call("k1", check_stage="test"))
    await until(lambda: environments.processes.started)
    environments.processes.end("k1", cause=cause, code=code)
    await working
    await begin(environments, call("k1", check_stage="test"))
    first, again = (envelope.command for envelope in environments.bus.sent)
    assert isinstance(first, RecordCheck)
    assert (first.check_id, first.passed) == ("k1", passed)
    assert first == again


async def test_keeper_ends_what_nobody_waits_for(environments: Environments) -> None:
    """A started call whose run has ended: its process ends, and the log says that it was interrupted."""
    await environments.executor.append(environments.id, CAUSE, lambda state: (started("c1"),))
    await environments.processes.start(environments.id, "c1", (), env={}, limits=None)  # type: ignore[arg-type]
    following = await environments.keeper.start()
    await following.close()
    assert environments.processes.interrupted == ["c1"]
    assert (await environments.events())[-1] == "ToolCallInterrupted c1"


async def test_keeper_removes_what_is_not_in_the_log_and_starts_in_spite_of_a_bad_one(tmp_path: Path) -> None:
    """An environment that cannot be looked at is looked at again later; the others have their turn."""
    environments = await Environments(tmp_path).stand("shop-1-broken")
    environments.processes.broken = {"shop-1-broken"}
    environments.workspaces.environments.append("orphan-1-development")
    following = await environments.keeper.start()
    await following.close()
    assert environments.workspaces.environments == ["shop-1-broken"]


class AwayInstallations:
    """An engine that does not answer."""

    def __init__(self) -> None:
        self.asked = 0

    async def keep(self) -> list[str]:
        self.asked += 1
        message = "no Docker engine answers"
        raise Transient(message)

    async def close(self) -> None:
        pass


async def test_keeper_does_its_other_work_while_the_engine_is_away(environments: Environments) -> None:
    """What cannot be swept now is swept later: the host starts, and what it can look at it looks at."""
    environments.workspaces.environments.append("orphan-1-development")
    away = AwayInstallations()
    prepare = environments.handlers.prepare
    keeper = Keeper(environments.memory.log, environments.plumbing, environments.executor, prepare, None, away)
    following = await keeper.start()
    await following.close()
    assert away.asked == 1
    assert environments.workspaces.environments == [environments.id]


async def test_nothing_is_held_of_environments_where_nothing_is_done(environments: Environments) -> None:
    """As long as one is inside, the next one meets the same locks; with the last one everything goes, also where it was
    asked for an environment that nobody knows."""
    rooms = environments.executor.rooms
    assert len(rooms) == 0
    first = begin(environments, call("c1"))
    entered = environments.room()
    await until(lambda: environments.processes.started == ["c1"])
    second = begin(environments, call("c2"))
    environments.processes.end("c1")
    await first
    assert environments.room() is entered
    await until(lambda: environments.processes.started == ["c1", "c2"])
    environments.processes.end("c2")
    await second
    await until(lambda: len(rooms) == 0)
    await environments.inspector.inspect(environments.id, CAUSE)
    await environments.executor.interrupt("shop-9-development", InterruptCall(call_id="c9", reason="cancelled"))
    await environments.executor.interrupt_all("shop-9-development", "cancelled")
    assert len(rooms) == 0


async def test_what_a_crash_left_comes_to_its_end_first(environments: Environments) -> None:
    """Else the checkpoint of the next call would hold what the first one had half done."""
    append = environments.executor.append
    await append(environments.id, Cause(id="left"), lambda state: (started("c1"),))
    waiting = begin(environments, call("c2"))
    await until(lambda: not environments.room().changing.locked())
    assert environments.processes.started == []
    first = begin(environments, call("c1"))
    await until(lambda: environments.processes.started == ["c1"])
    environments.processes.end("c1")
    await first
    await until(lambda: environments.processes.started == ["c1", "c2"])
    environments.processes.end("c2")
    await waiting
    assert await environments.events() == [
        "ToolCallStarted c1",
        "ToolCallCompleted c1",
        "ToolCallStarted c2",
        "ToolCallCompleted c2",
    ]


async def test_workspace_goes_back_also_where_the_process_died_after_it_said_so(environments: Environments) -> None:
    """That a call is executed again is in the log before the workspace is restored."""
    uncertain = ToolCallUncertain(
        call_id="c1", run_id="run-1", tool="shell", resolution="restore-and-execute-again", detail="", restored="c0"
    )
    await environments.executor.append(environments.id, Cause(id="left"), lambda state: (started("c1"), uncertain))
    working = begin(environments, call("c1"))
    await until(lambda: environments.processes.started == ["c1.1"])
    assert environments.workspaces.restored == ["c0"]
    environments.processes.end("c1.1")
    await working


async def test_operation_says_what_it_does_and_its_facts_stand_with_its_end(environments: Environments) -> None:
    """One decision holds both; what it said is in the output under the call."""

    async def operation(asked: Asked) -> Done:
        await asked.say("pulling\n")
        return Done(text="up", facts=(OrphanRemoved(kind="process", name="p", reason="r"),))

    environments.operations[Noop] = operation
    await begin(environments, call("c1", "noop", "external", retry="idempotent"))
    records = await environments.memory.log.load("environment", environments.id)
    assert [[type(event).__name__ for event in record.envelope.events] for record in records[1:]] == [
        ["ToolCallStarted"],
        ["OrphanRemoved", "ToolCallCompleted"],
    ]
    assert [chunk.data for chunk in await environments.memory.output.read("run-1")] == [b"pulling\n"]


async def test_operation_that_is_interrupted_or_late_is_cancelled(environments: Environments) -> None:
    """Its call ends at once either way."""
    cancelled = []

    async def operation(asked: Asked) -> Done:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(asked.command.call_id)
            raise
        return Done()

    environments.operations[Noop] = operation
    working = begin(environments, call("c1", "noop", "none"))
    await until(lambda: environments.room().operations)
    await environments.executor.interrupt(environments.id, InterruptCall(call_id="c1", reason="cancelled"))
    await working
    await begin(environments, call("c2", "noop", "none", time_limit_seconds=0.01))
    assert cancelled == ["c1", "c2"]
    assert await environments.events() == ["ToolCallInterrupted c1", "ToolCallFailed c2"]
