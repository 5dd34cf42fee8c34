"""What people ask of environments: in the log first, then executed like the calls of agents."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from events import names
from events.agents import ProgramAgent
from events.content import Inline
from events.envelope import CommandEnvelope, Outcome
from events.environment import PrepareEnvironment
from events.errors import CommandRejected
from events.kernel import Command
from events.pipeline import DEVELOPMENT
from events.project import Repository
from events.requests import RemoveEnvironment, RequestCall
from events.task import RunRequested, TaskSpecification, TaskSubmitted
from events.task_state import TASK
from infra.entities import Cause, EntityStore
from tests.unit.environment_twins import Environments
from tests.waiting import until

SHELL = RequestCall(tool="shell", arguments=Inline('{"command": "make"}'))


@pytest.fixture
async def environments(tmp_path: Path) -> Environments:
    return await Environments(tmp_path).stand()


def envelope(command: Command, id: str = Environments.id, command_id: str = "0123") -> CommandEnvelope:
    return CommandEnvelope(
        id=command_id,
        tenant="default",
        entity="environment",
        entity_id=id,
        time=datetime.now(UTC),
        command=command,
        actor="ann",
    )


async def ask(environments: Environments, command: Command, **of: str) -> Outcome:
    outcome = await environments.people.handle(envelope(command, **of))
    assert outcome is not None
    return outcome


async def test_call_of_a_person_is_in_the_log_before_it_begins(environments: Environments) -> None:
    """Asked for twice by the same command, it is executed once; every group of tools is open to it."""
    await ask(environments, SHELL)
    await ask(environments, SHELL)
    call_id = names.requested_call_id(environments.id, "0123")
    await until(lambda: environments.processes.started == [call_id])
    environments.processes.end(call_id)
    await until(lambda: not environments.executor.rooms.busy(environments.id))
    assert await environments.events() == [
        f"CallRequested {call_id}",
        f"ToolCallStarted {call_id}",
        f"ToolCallCompleted {call_id}",
    ]
    assert (await environments.plumbing.environments.load(environments.id))[0].asked == {}


@pytest.mark.parametrize("tool", ["submit", "ask_human", "program", "noop", "rm"])
async def test_tool_that_is_no_persons_is_rejected(environments: Environments, tool: str) -> None:
    """Those of the runner, of measurements, and those that do not exist."""
    with pytest.raises(CommandRejected, match="no tool that a person can use") as caught:
        await ask(environments, RequestCall(tool=tool, arguments=Inline("{}")))
    assert (caught.value.slug, caught.value.status) == ("unknown-tool", 422)


async def test_call_where_nothing_stands_is_rejected(environments: Environments) -> None:
    """There is nobody who could execute it."""
    with pytest.raises(CommandRejected, match="does not stand"):
        await ask(environments, SHELL, id="shop-9-development")


async def test_keeper_goes_on_with_what_a_person_asked_for(environments: Environments) -> None:
    """The process that took it died before or after it began: it is wanted, not abandoned."""
    call_id = names.requested_call_id(environments.id, "0123")
    await ask(environments, SHELL)
    await until(lambda: environments.processes.started == [call_id])
    await environments.executor.stop()
    state, _ = await environments.plumbing.environments.load(environments.id)
    assert [*state.asked] == [call_id]
    await until(lambda: not environments.executor.rooms)
    following = await environments.keeper.start()
    await following.close()
    environments.processes.end(call_id)
    await until(lambda: not environments.executor.rooms.busy(environments.id))
    assert (await environments.events())[-1] == f"ToolCallCompleted {call_id}"


async def test_environment_of_a_person_is_no_orphan(environments: Environments) -> None:
    """It has no task; it says who made it, stays, and goes when it is told to."""
    prepare = PrepareEnvironment(task_id="", repository_url="/repositories/shop", project="shop")
    await ask(environments, prepare, id="shop-env-1")
    prepared = (await environments.plumbing.environments.load("shop-env-1"))[0].prepared
    assert prepared is not None
    assert (prepared.project, prepared.made_by, prepared.task_id) == ("shop", "ann", "")
    following = await environments.keeper.start()
    await following.close()
    assert "shop-env-1" in environments.workspaces.environments
    await ask(environments, RemoveEnvironment(), id="shop-env-1")
    assert "shop-env-1" not in environments.workspaces.environments
    assert (await environments.plumbing.environments.load("shop-env-1"))[0].removed


async def test_environment_that_a_task_needs_is_not_removed(environments: Environments) -> None:
    """Nor one that never was; one that is removed already is removed."""
    with pytest.raises(CommandRejected, match="there is no environment") as caught:
        await ask(environments, RemoveEnvironment(), id="shop-env-9")
    assert caught.value.status == 404
    tasks = EntityStore(environments.memory.log, TASK, environments.clock)
    submitted = TaskSubmitted(
        specification=TaskSpecification(project="shop", title="t"),
        number=1,
        submission_id="s",
        pipeline=DEVELOPMENT,
        repository=Repository(url="/repositories/shop"),
        test_command="",
        max_attempts=1,
    )
    requested = RunRequested(
        stage="development",
        attempt=1,
        run_id="shop-1-development-1",
        environment_id=environments.id,
        agent_name="a",
        agent=ProgramAgent(command=("true",)),
        prompt="",
    )
    await tasks.decide("shop-1", Cause(id="task"), lambda task: (submitted, requested))
    with pytest.raises(CommandRejected, match="a run goes on") as caught:
        await ask(environments, RemoveEnvironment())
    assert caught.value.slug == "environment-in-use"


async def test_other_commands_go_their_way(environments: Environments) -> None:
    """What services ask for is not for people's handlers."""
    assert await environments.people.handle(envelope(PrepareEnvironment(task_id="shop-1", repository_url="/r"))) is None
