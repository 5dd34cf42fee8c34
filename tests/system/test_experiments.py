"""``kill -9`` of the chaos service in the middle of experiments, in a whole stack with a real engine: each ends with a
verdict, its faults are undone, and its journal tells all of it."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from infra.docker import labels
from infra.settings import Settings
from tests.docker.ground import CONNECT, Ground
from tests.engine import BASE_IMAGE
from tests.model_server import ModelServer
from tests.system.conftest import running
from tests.system.stack import SystemStack

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

PROJECT = f"cairn-test-{uuid.uuid4().hex[:10]}"
# Enough for a kill, the next process, its probe and the injection of both.
SECONDS = 15
VERDICTS = ("ExperimentCompleted", "ExperimentDeviated", "ExperimentAborted", "ExperimentRefused")


@pytest.fixture(scope="module")
def stack(model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemStack]:
    chaos = {"projects": [PROJECT], "base_image": BASE_IMAGE}
    with running(tmp_path_factory.mktemp("stack"), model, {"chaos": chaos}) as stack:
        yield stack


async def up(stack: SystemStack, ground: Ground) -> None:
    """A Compose project that Cairn did not make; what the stack leaves of its faults fails the test."""
    ground.owns(f"default {Settings().host} {stack.home}")
    marks = {labels.ENVIRONMENT: "", labels.COMPOSE_PROJECT: PROJECT}
    await ground.up("api", "database", "cache", marks=marks)


def begin(stack: SystemStack, *faults: dict[str, Any], **extension: Any) -> str:
    """An experiment with these faults, all beside one another; answers its id."""
    provider = {"type": "container_state", "service": "api"}
    method = [
        {"type": "action", "name": fault["kind"], "provider": {"type": "fault", **fault}, "background": True}
        for fault in faults
    ]
    document = {
        "title": "The service is killed meanwhile",
        "steady-state-hypothesis": {"probes": [{"name": "api runs", "tolerance": "running", "provider": provider}]},
        "method": method,
        "extensions": [{"name": "cairn", **extension}],
    }
    return str(stack.post("/experiments", {"document": document, "target": f"compose:{PROJECT}"})["id"])


def kill(stack: SystemStack) -> None:
    stack.until_back("chaos", stack.kill("chaos"))


def assert_told_once(stack: SystemStack, id: str) -> None:
    """What was intended was injected and undone, each once; every step has one end; nothing follows the verdict."""
    intended = [item.event["fault_id"] for item in stack.feed.all("FaultIntended", id)]
    for kind in ("FaultInjected", "FaultUndone"):
        assert Counter(item.event["fault_id"] for item in stack.feed.all(kind, id)) == dict.fromkeys(intended, 1), kind
    for kind in ("StepBegun", "StepEnded"):
        steps = [item.event["step"] for item in stack.feed.all(kind, id)]
        assert steps == sorted(set(steps)), kind
    kinds = stack.feed.kinds(id)
    assert [kind for kind in kinds if kind in VERDICTS] == kinds[-1:]
    assert "FaultStuck" not in kinds


async def test_killed_at_every_stage(stack: SystemStack, ground: Ground) -> None:
    """Before the faults, while they hold, and when one is undone: what is left is done by the next process, each fault
    holds until its end also while nobody is there, and the verdict is that everything held."""
    await up(stack, ground)
    pause = {"kind": "pause_service", "service": "cache", "duration_seconds": SECONDS}
    cut = {"kind": "drop_network", "service": "api", "peer": "database", "duration_seconds": SECONDS}
    id = begin(stack, pause, cut)
    stack.feed.until("FaultIntended", id)
    kill(stack)
    stack.feed.until("FaultInjected", id, count=2)
    killed = stack.kill("chaos")
    assert (await ground.run("api", CONNECT, "database", 0.5))["how"] == "TimeoutError"
    stack.until_back("chaos", killed)
    stack.feed.until("FaultUndone", id)
    kill(stack)
    stack.feed.until("ExperimentCompleted", id)

    assert not (await ground.state("cache"))["Paused"]
    assert (await ground.run("api", CONNECT, "database", 20))["how"] == "connected"
    assert_told_once(stack, id)
    assert len(stack.feed.all("ExperimentResumed", id)) == 3
    journal = stack.get(f"/experiments/{id}/journal")
    assert (journal["status"], journal["deviated"]) == ("completed", False)
    assert [(step["activity"]["name"], step["status"]) for step in journal["run"]] == [
        ("pause_service", "succeeded"),
        ("drop_network", "succeeded"),
    ]
    assert [journal["steady_states"][phase]["steady_state_met"] for phase in ("before", "after")] == [True, True]
    assert all(fault["undone"] >= fault["ends_at"] for fault in journal["cairn"]["faults"].values())


async def test_killed_while_samples_are_taken(stack: SystemStack, ground: Ground) -> None:
    """Nobody watched meanwhile, so there is no verdict to be trusted: it is aborted, and what was to hold for long is
    undone at once."""
    await up(stack, ground)
    pause = {"kind": "pause_service", "service": "cache", "duration_seconds": 300}
    sampled = {"type": "container_state", "service": "api"}
    observe = [{"name": "api runs", "interval_seconds": 0.2, "tolerance": "running", "provider": sampled}]
    id = begin(stack, pause, observe=observe)
    stack.feed.until("FaultInjected", id)
    assert (await ground.state("cache"))["Paused"]
    kill(stack)
    aborted = stack.feed.until("ExperimentAborted", id)
    assert not (await ground.state("cache"))["Paused"]
    assert_told_once(stack, id)
    assert stack.get(f"/experiments/{id}", wait_for=aborted.sequence)["status"] == "aborted"
    assert stack.get(f"/experiments/{id}/journal")["status"] == "aborted"
