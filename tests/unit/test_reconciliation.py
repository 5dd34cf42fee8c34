"""A run that finds the world other than the log tells: it waits, asks, and does what was chosen, whoever holds it."""

from __future__ import annotations

import asyncio

import pytest

from events.content import Inline
from events.environment import (
    EnvironmentLost,
    EnvironmentPrepared,
    InspectEnvironment,
    PrepareEnvironment,
    ReconcileEnvironment,
    WorkspaceDiverged,
)
from events.kernel import Event, replace
from events.run import RunAbandoned, RunDiverged, RunInterrupted, RunReconciled, RunReconfigured
from events.task import DivergenceReported, RecordRunFailed, ReportDivergence, ResolveDivergence
from infra.entities import Cause
from services.scheduler.deciders import divergence as divergence_decider
from tests.unit.examples import AGENT
from tests.unit.runner_twins import LIST, RUN_ID, SUBMIT, Runs
from tests.waiting import until

CHANGED = WorkspaceDiverged(kind="workspace", expected="t1", found="t8", diff=Inline("+by hand\n"))


@pytest.fixture
async def runs() -> Runs:
    """A run that was interrupted after the result of a call, before the model's next answer."""
    runs = Runs()
    await runs.ask_for_the_run()
    runs.model.say(LIST)
    first = await runs.drive()
    await until(lambda: len(runs.model.asked) == 2)
    first.cancel()
    await asyncio.wait([first])
    return runs


async def of(runs: Runs, kind: type[Event]) -> list[Event]:
    return [event for event in await runs.events() if isinstance(event, kind)]


async def choose(runs: Runs, choice: str) -> None:
    """Once the run has asked, a person answers through the task."""
    await until(lambda: runs.bus.sent(ReportDivergence))
    (report,) = runs.bus.sent(ReportDivergence)[:1]
    await runs.decide_task(lambda task: divergence_decider.report(task, report))
    resolve = ResolveDivergence(choice=choice)
    await runs.decide_task(lambda task: divergence_decider.resolve(task, resolve, by="ada"))


async def test_run_that_is_taken_over_says_that_it_was_interrupted_and_has_its_workspace_looked_at(runs: Runs) -> None:
    """After the result that it had; where all is well it goes on."""
    runs.model.say(SUBMIT)
    await (await runs.drive())
    (interrupted,) = await of(runs, RunInterrupted)
    assert isinstance(interrupted, RunInterrupted)
    assert (interrupted.epoch, interrupted.after) == (1, f"result of list_files ({RUN_ID}-c1)")
    assert len(runs.bus.sent(InspectEnvironment)) == 1
    assert await of(runs, RunDiverged) == []


@pytest.mark.parametrize("choice", ["restore", "accept"])
async def test_changed_workspace_waits_for_a_person(runs: Runs, choice: str) -> None:
    """Nothing happens before; then what was chosen is carried out, and the run goes on to its end."""
    runs.bus.found = (CHANGED,)
    runs.model.say(SUBMIT)
    driving = await runs.drive()
    await until(lambda: runs.bus.sent(ReportDivergence))
    assert len(runs.model.asked) == 2
    await choose(runs, choice)
    await driving
    (diverged,) = await of(runs, RunDiverged)
    assert isinstance(diverged, RunDiverged)
    assert (diverged.kind, diverged.expected, diverged.found, diverged.diff) == ("workspace", "t1", "t8", CHANGED.diff)
    assert runs.bus.sent(ReconcileEnvironment) == [ReconcileEnvironment(choice=choice)]
    assert await of(runs, RunReconciled) == [
        RunReconciled(divergence_id=f"{RUN_ID}-d1", kind="workspace", choice=choice, by="ada")
    ]


async def test_abandoned_run_ends_and_is_not_tried_again(runs: Runs) -> None:
    """The task is told so."""
    runs.bus.found = (CHANGED,)
    driving = await runs.drive()
    await choose(runs, "abandon")
    await driving
    assert await of(runs, RunAbandoned) == [RunAbandoned(kind="workspace", by="ada")]
    (report,) = runs.bus.sent(RecordRunFailed)
    assert isinstance(report, RecordRunFailed)
    assert (report.cause, report.retryable) == ("abandoned", False)


async def test_policy_chooses_at_once(runs: Runs) -> None:
    """Nobody is asked."""
    runs.command = replace(runs.command, on_divergence="restore")
    runs.bus.found = (CHANGED,)
    runs.model.say(SUBMIT)
    await (await runs.drive())
    assert runs.bus.sent(ReportDivergence) == []
    (reconciled,) = await of(runs, RunReconciled)
    assert isinstance(reconciled, RunReconciled)
    assert (reconciled.choice, reconciled.by) == ("restore", "policy")


async def test_runner_that_dies_while_a_person_thinks_leaves_the_question_open(runs: Runs) -> None:
    """The next one asks nothing new, and carries out what was chosen meanwhile; dying so does not count as crashing."""
    runs.bus.found = (CHANGED,)

    async def die_asking() -> None:
        driving = await runs.drive()
        asked = len(runs.bus.sent(ReportDivergence))
        await until(lambda: len(runs.bus.sent(ReportDivergence)) > asked)
        driving.cancel()
        await asyncio.wait([driving])

    for _ in range(7):
        await die_asking()
    await choose(runs, "accept")
    runs.model.say(SUBMIT)
    await (await runs.drive())
    assert len(await of(runs, RunDiverged)) == len(await of(runs, RunReconciled)) == 1
    reports = [event for record in await runs.memory.log.load("task", "shop-1") for event in record.envelope.events]
    assert len([event for event in reports if isinstance(event, DivergenceReported)]) == 1


@pytest.mark.parametrize(("choice", "system"), [("restore", "Be good."), ("accept", "Be quick.")])
async def test_changed_configuration_is_told_as_text(runs: Runs, choice: str, system: str) -> None:
    """Restored, the run keeps what it began with, however often it is taken; accepted, it works with the new one."""
    runs.configured["coder"] = replace(AGENT, instructions="Be quick.")
    driving = await runs.drive()
    await choose(runs, choice)
    await until(lambda: len(runs.model.asked) == 3)
    driving.cancel()
    await asyncio.wait([driving])
    runs.model.say(SUBMIT)
    await (await runs.drive())
    (diverged,) = await of(runs, RunDiverged)
    assert isinstance(diverged, RunDiverged)
    assert diverged.kind == "configuration"
    assert isinstance(diverged.diff, Inline)
    assert "-Be good.\n+Be quick.\n" in diverged.diff.text
    assert [request.system for request in runs.model.asked] == ["Be good.", "Be good.", system, system]
    assert len(await of(runs, RunReconfigured)) == (choice == "accept")
    assert runs.bus.sent(ReconcileEnvironment) == []


async def test_workspace_that_diverges_while_the_model_thinks_stops_the_run(runs: Runs) -> None:
    """The answer that it would have given is asked for again afterwards."""
    driving = await runs.drive()
    await until(lambda: len(runs.model.asked) == 3)
    await runs.environments.decide("shop-1-development", Cause(id="keeper"), lambda state: (CHANGED,))
    await choose(runs, "restore")
    await until(lambda: len(runs.model.asked) == 4)
    runs.model.say(SUBMIT)
    runs.model.say(SUBMIT)
    await driving
    assert len(await of(runs, RunReconciled)) == 1


async def test_workspace_that_is_lost_is_prepared_again(runs: Runs) -> None:
    """By the run that needs it, without anybody being asked."""
    driving = await runs.drive()
    await until(lambda: len(runs.model.asked) == 3)
    lost = EnvironmentLost(detail="gone")
    await runs.environments.decide("shop-1-development", Cause(id="lost"), lambda state: (lost,))
    await until(lambda: len(runs.model.asked) == 4)
    runs.model.say(SUBMIT)
    runs.model.say(SUBMIT)
    await driving
    assert len(runs.bus.sent(PrepareEnvironment)) == 2
    records = await runs.memory.log.load("environment", "shop-1-development")
    assert [isinstance(event, EnvironmentPrepared) for event in records[-1].envelope.events] == [True]
