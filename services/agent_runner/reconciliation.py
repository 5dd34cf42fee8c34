"""Before a run goes on: whether the world is as the log tells it, and who says what holds where it is not.

A run that was taken over, or whose workspace stood already, has its workspace looked at and its configuration
compared. What differs is an event, and the run waits: for the project's policy, which answers at once, or for a
person, who is asked through the task. Where all is well this costs one question to the environment-manager.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from events import subjects
from events.calls import session_file
from events.content import EMPTY
from events.divergence import ASK
from events.environment import InspectEnvironment, ReconcileEnvironment
from events.run import RunDiverged, RunUnprepared
from events.task import ReportDivergence
from infra.ports import store_content
from services.agent_runner.configuration import difference
from services.agent_runner.deciders import run as decider
from services.agent_runner.ending import Ending
from services.agent_runner.ports import Configuration

if TYPE_CHECKING:
    from services.agent_runner.driver import Driver

logger = structlog.get_logger()

POLICY = "policy"


async def reconcile(driver: Driver) -> bool:
    """Return True when log and world agree, or somebody has chosen what holds; False where the workspace is gone and
    has to be made again first. Raises ``Ending`` where the run is abandoned."""
    while True:
        if driver.run.diverged is None and not await _find(driver):
            return driver.history.environment.stands
        if driver.run.diverged is not None and not await _settle(driver, driver.run.diverged):
            return False


async def _find(driver: Driver) -> bool:
    """Look for what differs, and record the first that does."""
    if driver.epoch > 1:
        present = _present(driver)
        other = difference(driver.run, present)
        if other is not None:
            diff = await store_content(driver.plumbing.content, other.diff)
            await driver.decide(
                lambda run: decider.diverge(
                    run, driver.epoch, kind="configuration", expected=other.expected, found=other.found, diff=diff
                )
            )
            return True
    await _inspect(driver)
    found = driver.history.environment.diverged
    if found is None:
        return False
    await driver.decide(
        lambda run: decider.diverge(
            run, driver.epoch, kind=found.kind, expected=found.expected, found=found.found, diff=found.diff or EMPTY
        )
    )
    return True


async def _inspect(driver: Driver) -> None:
    """Have the workspace looked at, once for each time that the run is taken. One that this very run had made, and one
    in which a call runs, need not be."""
    history = driver.history
    if driver.inspected or history.environment.diverged is not None or history.environment.running:
        return
    id = f"{driver.id}-{driver.epoch}-inspection-{driver.run.divergences}"
    question = InspectEnvironment(inspection_id=id, session_file=_session_file(driver))
    await driver.send_to_environment(question, id)
    await driver.until(
        lambda: (
            history.environment.inspected == id
            or history.environment.diverged is not None
            or not history.environment.stands
        )
    )
    driver.inspected = history.environment.stands


async def _settle(driver: Driver, diverged: RunDiverged) -> bool:
    """Have it chosen what holds, and carry it out. False where the workspace got lost over it."""
    logger.warning("diverged", run=driver.id, kind=diverged.kind, found=diverged.found)
    choice, by = driver.command.on_divergence, POLICY
    if choice == ASK:
        choice, by = await _ask(driver, diverged)
    if choice in ("abandon", "fork"):
        # A fork is a run of its own, which the scheduler has begun by now.
        await driver.decide(lambda run: decider.reconcile(run, driver.epoch, choice="abandon", by=by))
        assert driver.run.ended is not None
        raise Ending(driver.run.ended)
    if diverged.kind != "configuration" and not await _carry_out(driver, diverged, choice):
        return False
    present = _present(driver)
    await driver.decide(lambda run: decider.reconcile(run, driver.epoch, choice=choice, by=by, present=present))
    return True


async def _ask(driver: Driver, diverged: RunDiverged) -> tuple[str, str]:
    """What a person chose, and who."""
    id = diverged.divergence_id

    def chosen() -> tuple[str, str] | None:
        return next(
            (
                (item.choice, item.by)
                for item in driver.history.task.divergences
                if item.reported.divergence_id == id and item.choice
            ),
            None,
        )

    if chosen() is None:
        report = ReportDivergence(
            run_id=driver.id,
            divergence_id=id,
            kind=diverged.kind,
            expected=diverged.expected,
            found=diverged.found,
            diff=diverged.diff,
        )
        await driver.send(subjects.SCHEDULER, subjects.ANY, "task", driver.command.task_id, report, f"{id}-report")
        await driver.until(lambda: chosen() is not None)
    answer = chosen()
    assert answer is not None
    return answer


async def _carry_out(driver: Driver, diverged: RunDiverged, choice: str) -> bool:
    history = driver.history
    history.reconciliation_failure = None
    if history.environment.diverged is not None:
        command = ReconcileEnvironment(choice=choice, session_file=_session_file(driver))
        await driver.send_to_environment(command, f"{diverged.divergence_id}-{choice}")
    await driver.until(
        lambda: (
            history.environment.diverged is None
            or not history.environment.stands
            or history.reconciliation_failure is not None
        )
    )
    failure = history.reconciliation_failure
    if failure is not None:
        raise Ending(RunUnprepared(cause=failure.cause, detail=failure.detail))
    driver.inspected = False  # There may be more that differs.
    return history.environment.stands


def _session_file(driver: Driver) -> str:
    started = driver.run.started
    return session_file(started.agent) if started is not None else ""


def _present(driver: Driver) -> Configuration:
    """What the agent would work with if the run began now, as far as this host knows."""
    plumbing, started = driver.plumbing, driver.run.started
    assert started is not None
    agent = plumbing.configured(started.agent_name) or started.agent
    offered = decider.offered(agent, started.groups)
    return Configuration(agent=agent, system=plumbing.system_prompt(agent), tools=offered)
