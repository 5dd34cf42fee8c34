"""A Docker engine, one of the test's own, that is killed in the middle: of a call in a container, and of a fault."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.docker_engine import SecondEngine
from tests.engine import BASE_IMAGE
from tests.model_server import ModelServer
from tests.system.checks import assert_calls_ended_once
from tests.system.conftest import SCHEDULING, WORKER, running
from tests.system.examples import MEND, lines, repository, shell, submit
from tests.system.stack import SystemStack, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

COMMAND = f'echo begun >> "$HOME/begun"; echo half >> half; until [ -e "$HOME/go" ]; do sleep 0.05; done; {MEND}'
FAULT = {
    "title": "A service is frozen",
    "method": [
        {
            "type": "action",
            "name": "freeze it",
            "provider": {"type": "fault", "kind": "pause_service", "service": "api", "duration_seconds": 8},
        }
    ],
}


@pytest.fixture(scope="module")
def second() -> Iterator[SecondEngine]:
    with SecondEngine() as engine:
        yield engine


@pytest.fixture(scope="module")
def stack(second: SecondEngine, model: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemStack]:
    """A stack whose engine is the second one."""
    settings: dict[str, object] = {
        "worker": {**WORKER, "isolation": "container", "image": BASE_IMAGE, "warm_containers": 0},
        "chaos": {"projects": ["second"], "base_image": BASE_IMAGE},
        "scheduling": SCHEDULING,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", second.url)
        with running(tmp_path_factory.mktemp("stack"), model, settings) as stack:
            yield stack


def test_in_a_call(stack: SystemStack, second: SecondEngine, model: ModelServer, tmp_path: Path) -> None:
    """Without its engine a command goes on; the engine that comes back ends its container, and what the command had
    done half is taken back before it is executed again, in another container."""
    title = "Through the death of an engine"
    model.add(title, [shell(COMMAND), shell("cat half greeting.txt"), submit()])
    stack.project("contained", repository(tmp_path / "repository"))
    task = stack.submit("contained", title, agent="anthropic")
    home = stack.home / "environments" / f"{task}-development" / "home"
    wait_until(lambda: len(lines(home / "begun")) == 1, "the command runs")
    second.kill()
    time.sleep(1.0)
    assert stack.feed.all("ToolCallUncertain", task) == []
    second.start()
    wait_until(lambda: len(lines(home / "begun")) == 2, "the command runs again")
    (home / "go").touch()
    stack.feed.ended(task)
    uncertain = stack.feed.all("ToolCallUncertain", task)
    assert [item.event["resolution"] for item in uncertain] == ["restore-and-execute-again"]
    assert stack.cairn("logs", f"{task}-development-1").endswith("half\nHello, world\n")
    assert_calls_ended_once(stack, task)
    wait_until(lambda: second.docker("ps", "--all", "--quiet") == "", "nothing is left in the engine")


def test_in_a_fault(stack: SystemStack, second: SecondEngine) -> None:
    """The fault outlasts its end while the engine is dead, and is undone when it is back; nothing of it is left."""
    marks = ("com.docker.compose.project=second", "com.docker.compose.service=api")
    api = second.docker(
        *("run", "--detach", "--network=none", *(f"--label={mark}" for mark in marks), BASE_IMAGE, "sleep", "600")
    )
    id = str(stack.post("/experiments", {"target": "compose:second", "document": FAULT}, status=201)["id"])
    intended = stack.feed.until("FaultIntended", id).event
    stack.feed.until("FaultInjected", id)
    assert second.docker("inspect", "--format={{.State.Paused}}", api) == "true"
    second.kill()
    ends_at = datetime.fromisoformat(intended["ends_at"])
    time.sleep(max(0.0, (ends_at - datetime.now(UTC)).total_seconds()) + 0.5)
    assert stack.feed.all("FaultUndone", id) == []
    second.start(live_restore=True)
    stack.feed.until("FaultUndone", id)
    assert second.docker("inspect", "--format={{.State.Status}}", api) == "running"
    stack.feed.until("ExperimentCompleted", id)
    wait_until(lambda: second.docker("ps", "--all", "--quiet", "--no-trunc") == api, "no record of it is left")
