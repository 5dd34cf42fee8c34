"""The model and the stack of the system tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.ground import ground
from tests.engine import engine
from tests.model_server import KEY, MODEL, ModelServer
from tests.system.stack import SystemStack

__all__ = ["engine", "ground", "model", "running", "stack"]  # fixtures, and what makes them

# Models flinch often in tests, and nobody wants to wait for them for ten seconds.
WORKER = {"model_backoff_seconds": 0.05, "grace_seconds": 2.0, "preflight_seconds": 0.5}
SCHEDULING = {"backoff_seconds": 0.05, "breaker_seconds": 1.5}


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    """A model that speaks both protocols; a test adds the script of its own conversation by the task's title."""
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
def stack(
    request: pytest.FixtureRequest, model: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SystemStack]:
    """A running stack for the tests of a module. A module may have ``WORKER`` settings of its own."""
    directory = tmp_path_factory.mktemp("stack")
    with running(directory, model, {"worker": {**WORKER, **getattr(request.module, "WORKER", {})}}) as stack:
        yield stack


def running(directory: Path, model: ModelServer, settings: dict[str, object]) -> SystemStack:
    """A stack with an agent for each protocol, not started yet."""
    key = directory / "model-key"
    key.write_text(KEY)
    stack = SystemStack(directory, {"worker": WORKER, "scheduling": SCHEDULING, **settings})
    common = {"kind": "model", "model": MODEL, "key": f"file:{key}"}
    stack.agent("anthropic", **common, provider="anthropic", base_url=model.url)
    stack.agent("openai", **common, provider="openai", base_url=f"{model.url}/v1")
    return stack
