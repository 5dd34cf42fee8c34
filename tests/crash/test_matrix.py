"""The part of the crash matrix that fits into every build: `make crash-matrix` tries all of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from events import subjects
from infra.faults.laboratory import EVERYTHING, HANDLER, VICTIMS, Laboratory, Point
from infra.faults.matrix import disturb, points, sampled
from tests.crash.__main__ import matrix
from tests.crash.workload import SPECIFICATION, laboratory

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

# How many points of the service that handles the message (0: all of them), and how many others.
HANDLED = int(os.environ.get("CRASH_POINTS", "0"))
OTHERS = int(os.environ.get("CRASH_OTHERS", "24"))
SEED = int(os.environ.get("SEED", "1"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Laboratory]:
    lab = laboratory(tmp_path_factory.mktemp("lab"))
    try:
        await lab.start()
        yield lab
    finally:
        await lab.stop()


async def test_between_tool_result_and_next_model_step(lab: Laboratory) -> None:
    """The result of a tool is in the log, the model has not been asked: whoever is killed there, the model is shown
    what it would have been shown, and nothing is executed again."""
    reference = await lab.undisturbed(SPECIFICATION)
    decisions = reference.decisions
    result = next(
        number
        for number, names in enumerate(decisions, 1)
        if names[0] == "ToolCallCompleted" and decisions[number][0] == "ModelResponded"
    )
    for victim in (subjects.AGENT_RUNNER, subjects.ENVIRONMENT_MANAGER, EVERYTHING):
        chosen = [Point(result, "after", victim), Point(result + 1, "before", victim)]
        async for verdict in disturb(lab, SPECIFICATION, chosen, reference.account.differences):
            assert not verdict.problems, str(verdict.point)
            assert verdict.trial.account.executions == reference.account.executions


async def test_points_of_the_log(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Killed at the points where it handles the message, and at a sample of the others, every service comes back to
    the same end."""

    def chosen(appends: int) -> list[Point]:
        handled = points(appends, (HANDLER,))
        others = points(appends, VICTIMS) + points(appends, VICTIMS, gently=True)
        return sampled(handled, HANDLED or len(handled), SEED) + sampled(others, OTHERS, SEED)

    verdicts = await matrix(tmp_path_factory.mktemp("matrix"), chosen, workers=2)
    failed = [f"{verdict.point}: {'; '.join(verdict.problems[:5])}" for verdict in verdicts if verdict.problems]
    print(f"{len(verdicts)} points, {len(failed)} failures, seed {SEED}")
    assert not failed
