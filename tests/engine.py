"""A real Docker engine for tests. Where none answers a test is skipped with the reason; with
``CAIRN_TEST_ENGINE=required``, as in CI, it fails instead."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.errors import Transient
from infra.clock import SystemClock
from infra.docker import labels
from infra.docker.address import address
from infra.docker.engine import Engine
from infra.settings import Settings
from services.environment_manager.adapters.installations import DockerInstallations
from tests.needs import missing

# Debian with Python, git, curl, nftables, iptables and iproute2: made by `.ci/engine`, without a registry.
BASE_IMAGE = "cairn-debian"


async def require() -> None:
    """Skip, or fail, where no engine answers here or it lacks the base image."""
    async with Engine() as client:
        try:
            await client.version()
            why = "" if await client.has_image(BASE_IMAGE) else f"the engine has no image {BASE_IMAGE}"
        except Transient:
            why = f"no Docker engine answers at {address()}"
    if why:
        missing(f"{why}: `.ci/engine` provides it")


async def clear(home: Path) -> None:
    """Remove what a stack that is stopped has left in the engine: its environments stand until somebody removes them,
    and a test that fails, or kills what would remove them, does not."""
    marks = {labels.TENANT: Settings().tenant, labels.HOME: str(home)}
    installations = DockerInstallations(SystemClock(), marks)
    with contextlib.suppress(Transient):  # An engine that is away holds nothing.
        things = await installations.things()
        await installations.remove(thing for thing in things if thing.marks[labels.HOME] == str(home))
    await installations.close()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """A client of the engine that answers here, where the base image is."""
    await require()
    async with Engine() as client:
        yield client
