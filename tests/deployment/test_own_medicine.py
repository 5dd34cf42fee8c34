"""The deployed stack under its own chaos service: ``docs/experiments/own-medicine.yaml``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.docker import labels
from services.command_line.client import Gateway
from tests.deployment.deployment import ROOT, Deployment, shell, submit
from tests.engine import BASE_IMAGE
from tests.system.examples import MEND
from tests.system.stack import Happened, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

EXPERIMENT = ROOT / "docs" / "experiments" / "own-medicine.yaml"
FILES = "docker-compose.yml:deploy/worker/docker-compose.containers.yml"
STEPS = 40
USER = 10001
ENDS = ("ExperimentCompleted", "ExperimentDeviated", "ExperimentAborted", "ExperimentRefused")


@contextmanager
def removed_with(home: Path) -> Iterator[None]:
    """At the end, no container is left of the worker whose home this is: a killed one cannot take its own with it."""
    try:
        yield
    finally:
        listed = ["docker", "ps", "-a", "-q", "--filter", f"label={labels.HOME}={home}"]
        left = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
        if left:
            subprocess.run(["docker", "rm", "-f", "-v", *left], capture_output=True, check=True)


def ends_of(deployment: Deployment, experiment: str) -> list[Happened]:
    return [end for kind in ENDS for end in deployment.feed.all(kind, experiment)]


def test_our_own_medicine(tmp_path: Path) -> None:
    """Every container is cut off from NATS, killed and frozen, NATS gets slow and loses packets: every task is done,
    every step of it once, and all that is known of a task afterwards is what was told before."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    variables = {
        "COMPOSE_FILE": FILES,
        "CAIRN_WORKER_HOME": str(home),
        "DOCKER_GROUP": str(Path("/var/run/docker.sock").stat().st_gid),
    }
    deployment = Deployment(tmp_path, **variables)
    deployment.write_settings(
        worker={"grace_seconds": 2.0, "lease_seconds": 5.0, "image": BASE_IMAGE},
        chaos={"projects": [deployment.name], "base_image": BASE_IMAGE},
    )
    with removed_with(home), deployment:
        deployment.agent(
            "patient", [*(shell(f"sleep 2; echo {n} >>steps.txt") for n in range(STEPS)), shell(MEND), submit()]
        )
        deployment.project("mill")
        tasks = [deployment.submit("mill", f"Mend it patiently {number}", "patient") for number in range(2)]
        for task in tasks:
            assert deployment.feed.until("EnvironmentPrepared", task).event["isolation"] == "container"
            deployment.feed.until("ToolCallStarted", task)
        with Gateway(deployment.url, deployment.key) as gateway:
            target = f"compose:{deployment.name}"
            gateway.post("/experiments", {"document": EXPERIMENT.read_text(), "target": target, "host": "local"})
        experiment = deployment.feed.until("ExperimentRequested").entity_id
        wait_until(lambda: bool(ends_of(deployment, experiment)), "the experiment ends", 300.0)
        (ended,) = ends_of(deployment, experiment)
        assert ended.kind == "ExperimentCompleted", ended
        for task in tasks:
            deployment.feed.ended(task, seconds=120.0)
            steps = deployment.show("mill", f"cairn/{task}:steps.txt")
            assert [int(step) for step in steps.split()] == list(range(STEPS))
            calls = [
                item.event["call_id"]
                for kind in ("ToolCallCompleted", "ToolCallFailed", "ToolCallInterrupted")
                for item in deployment.feed.all(kind, task)
            ]
            assert len(calls) == len(set(calls))
        deployment.feed.until_sequence(ended.sequence)
        heard = [decision["sequence"] for decision in deployment.feed.decisions]
        assert heard == sorted(set(heard))
