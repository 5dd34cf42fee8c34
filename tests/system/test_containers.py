"""The main job where an engine answers: agents, gates and checkpoints in containers, and a kill in the middle."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from infra.docker import labels
from infra.settings import Settings
from tests.engine import BASE_IMAGE, require
from tests.model_server import ModelServer
from tests.system.checks import assert_calls_ended_once
from tests.system.examples import MEND, TEST_COMMAND, numbers, repository, shell, submit
from tests.system.stack import SystemStack, wait_until

pytestmark = pytest.mark.system

# What an installation has by default, but for an image that is here.
WORKER = {"isolation": "auto", "image": BASE_IMAGE, "memory_mb": 512}

WAITING = f'seq 1 500; until [ -e "$HOME/go" ]; do sleep 0.05; done; seq 501 1000; {MEND}; id -u'


@pytest.fixture(scope="module", autouse=True)
def _engine() -> None:
    asyncio.run(require())


def containers(stack: SystemStack) -> dict[str, str]:
    """Name → id of the containers of this installation that environments live in."""
    wanted = (f"label={labels.HOME}={stack.home}", f"label={labels.ROLE}={labels.SANDBOX}")
    filters = [word for item in wanted for word in ("--filter", item)]
    command = ("docker", "ps", "--all", "--no-trunc", *filters, "--format", "{{.Names}} {{.ID}}")
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in printed.splitlines())


def name_of(stack: SystemStack, environment: str) -> str:
    marks = {labels.TENANT: "default", labels.HOST: Settings().host, labels.HOME: str(stack.home)}
    return labels.sandbox_name(environment, labels.installation(marks))


@pytest.mark.parametrize("kind", ["model", "program"])
def test_the_main_job(stack: SystemStack, model: ModelServer, tmp_path: Path, kind: str) -> None:
    """The environment-manager is killed while a command runs in a container: the next one takes its whole output and
    its end, the gate passes in a container too, and with the task its containers go."""
    project, title = f"contained-{kind}", f"In a container, by a {kind}"
    model.add(title, [shell(WAITING), shell("cat greeting.txt"), submit()])
    stack.agent(f"{project}-program", kind="program", command=["bash", "-c", WAITING])
    stack.project(project, repository(tmp_path / "repository"), test_command=f"{TEST_COMMAND} && test -e /cairn/ld.so")
    task = stack.submit(project, title, agent=f"{project}-program" if kind == "program" else "anthropic")
    id = f"{task}-development"
    output = stack.home / "environments" / id / "calls"
    wait_until(lambda: any(b"\n500\n" in path.read_bytes() for path in output.glob("*/output")), "the command runs")
    held = containers(stack)[name_of(stack, id)]
    stack.until_back("environment-manager", stack.kill("environment-manager"))
    assert containers(stack)[name_of(stack, id)] == held
    (stack.home / "environments" / id / "home" / "go").touch()
    stack.feed.ended(task)

    user = os.getuid() or 10_001
    expected = numbers(1, 1000) + f"{user}\n" + ("Hello, world\n" if kind == "model" else "")
    assert stack.cairn("logs", f"{task}-development-1") == expected
    prepared = stack.feed.until("EnvironmentPrepared", task).event
    assert (prepared["isolation"], prepared["image"]) == ("container", BASE_IMAGE)
    assert stack.feed.all("ToolCallUncertain", task) == []
    assert_calls_ended_once(stack, task)
    wait_until(lambda: not [name for name in containers(stack) if "warm" not in name], "the containers are gone")


def test_an_image_that_is_not_there(stack: SystemStack, tmp_path: Path) -> None:
    """The task fails with the image's name and what to do, and leaves no container."""
    stack.post(
        "/projects",
        {
            "name": "absent",
            "repository": {"url": str(repository(tmp_path / "repository"))},
            "sandbox": {"image": "cairn.invalid/absent:1"},
        },
    )
    task = stack.submit("absent", "With an image that is not there", agent="anthropic")
    stack.feed.ended(task, "TaskFailed")
    failed = stack.feed.until("EnvironmentPreparationFailed", task).event
    assert failed["cause"] == "image-missing"
    assert "docker pull cairn.invalid/absent:1" in failed["detail"]
    assert [name for name in containers(stack) if name_of(stack, f"{task}-development") == name] == []
