"""A distributed job scheduler, tested by Cairn: by a person's hand, and by a tester of the pipeline whose gate is an
experiment. Its planted bug loses the jobs of a worker that is killed, which none of its own tests can see."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from infra.docker import labels
from infra.docker.engine import Engine
from tests.deployment import images
from tests.engine import require
from tests.job_scheduler import patched_line, repository
from tests.model_server import Call, ModelServer, Turn
from tests.system.checks import assert_calls_ended_once, requests_of
from tests.system.examples import submit
from tests.system.stack import SystemStack, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

# Its composed system is what lives in containers here.
WORKER = {"isolation": "worktree"}

PIPELINE = {
    "name": "resilient",
    "stages": [
        {
            "name": "development",
            "role": "developer",
            "gate": {"kind": "tests", "command": "python3 -m unittest"},
            "rollback_to": "development",
        },
        {
            "name": "resilience",
            "role": "tester",
            "needs": ["development"],
            "tools": ["compose", "faults"],
            "gate": {"kind": "experiment", "document": "resilience.yaml"},
            "rollback_to": "development",
        },
    ],
}
LOST = re.compile(r"load-\d+-\d{3} \(running, attempt 1, worker-2\)")


def call(tool: str, **arguments: object) -> Turn:
    return Turn(calls=(Call(tool, arguments),))


@pytest.fixture(scope="module")
def database_image() -> str:
    """Of PostgreSQL, on an engine that answers."""
    asyncio.run(require())
    return images.postgres()


async def _containers(environment: str) -> list[str]:
    async with Engine() as engine:
        return [container["Names"][0] for container in await engine.containers({labels.ENVIRONMENT: environment})]


def test_by_hand(stack: SystemStack, tmp_path: Path, database_image: str) -> None:
    """Up, jobs, a worker killed: its jobs go to others; restarted it works again; no job is lost, and the API answers
    rightly all the while."""
    code = repository(tmp_path / "repository", database_image=database_image)
    stack.project("scheduler", code)
    environment = str(stack.json("environment", "create", "scheduler")["id"])
    stack.cairn("compose", "up", environment, timeout_seconds=150.0)
    services = stack.get(f"/environments/{environment}/services", wait_for=stack.last_sequence())["system"]["services"]
    port = next(item["ports"][0]["port"] for item in services if item["service"] == "api")
    api = httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10.0)

    def worker(name: str) -> dict[str, Any]:
        return next(item for item in api.get("/status").json()["workers"] if item["name"] == name)

    def kill(name: str) -> list[str]:
        """Kill it when it works; what it held then, which is nothing where it was just between two jobs."""
        wait_until(lambda: bool(worker(name)["holds"]), f"{name} works")
        arguments = {"service": name, "duration_seconds": 90}
        killed = stack.post(f"/environments/{environment}/calls", {"tool": "kill_service", "arguments": arguments})
        assert f"kill_service holds on {name}" in killed["result"]
        return list(worker(name)["holds"])

    url = str(api.base_url).rstrip("/")
    load = subprocess.Popen(
        [sys.executable, *f"-m scheduler.load run --url {url} --jobs 80 --seconds 1 --within 90".split()],
        cwd=code,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        name, held = next((name, held) for name in ("worker-2", "worker-3") if (held := kill(name)))
        wait_until(lambda: not worker(name)["live"], "it is away")
        wait_until(lambda: not worker(name)["holds"], "its jobs are taken from it")
        stack.cairn("compose", "restart", environment, name)
        wait_until(lambda: worker(name)["live"], "it has joined again")
        printed, _ = load.communicate(timeout=100)
    finally:
        load.kill()
    report = json.loads(printed)
    assert (report["lost"], report["wrong"], report["away"], report["done"]) == ([], [], 0, 80), report
    assert load.returncode == 0
    # What it had said to be done when it was killed may be taken down after it died; its other jobs go to others.
    assert set(held) & report["reassigned"].keys()
    assert all(workers[0] == name for workers in report["reassigned"].values())
    down = stack.cairn("compose", "down", environment, "--volumes")
    assert "The system is down (5 containers); its volumes are removed." in down
    stack.cairn("environment", "remove", environment)
    assert asyncio.run(_containers(environment)) == []


def test_a_killed_workers_lost_jobs_reach_the_developer(
    stack: SystemStack, model: ModelServer, tmp_path: Path, database_image: str
) -> None:
    """The tester's work passes and the gate does not, for it names jobs that were lost; the developer gets that as a
    change request, mends the line, and the gate passes."""
    remote = repository(tmp_path / "repository", broken=True, database_image=database_image)
    mended = "    Handler.queue = queue\n"
    mend = {"path": "scheduler/api.py", "old": mended, "new": f"{patched_line()}\n{mended}"}
    tested = [
        call("compose_up"),
        call("compose_exec", service="api", command="python3 -m scheduler.load submit --jobs 12 --seconds 0.8"),
        call("kill_service", service="worker-2", duration_seconds=4),
        call("compose_exec", service="api", command="python3 -m scheduler.load check --within 8"),
        call("compose_down", volumes=True),
        submit("It bears load; what follows from a worker's death the experiment tells."),
    ]
    model.add("stage 'development'", [submit("Nothing to do: all tests pass.")])
    model.add("the steady state is not back", [call("edit_file", **mend), submit("What lapsed is queued again.")])
    model.add("stage 'resilience'", tested)
    stack.project("jobs", remote, pipeline=PIPELINE)
    task = stack.submit("jobs", "Keep every job", agent="anthropic")

    back = stack.feed.until("StageRolledBack", task, seconds=300).event
    lost = LOST.findall(back["findings"])
    assert (back["stage"], back["to"], back["rework"]) == ("resilience", "development", 1)
    assert lost, back["findings"]
    assert "kill_service" in back["findings"]
    stack.feed.ended(task, seconds=300)
    prompts = [json.dumps(body["messages"][0]) for body in requests_of(model, "Keep every job")]
    assert any("stage 'development'" in prompt and lost[0] in prompt for prompt in prompts)
    assert [item.event["stage"] for item in stack.feed.all("StagePassed", task)] == ["development"] * 2 + ["resilience"]
    asked = stack.feed.all("ToolCallCompleted", task, tool="run_experiment")
    assert [item.event["exit_code"] for item in asked] == [1, 0]
    assert_calls_ended_once(stack, task)
    # Once when the stage began anew, and once at the end.
    stack.feed.until("EnvironmentRemoved", f"{task}-resilience", count=2)
    assert asyncio.run(_containers(f"{task}-resilience")) == []
