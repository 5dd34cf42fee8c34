"""A real Docker engine for tests. Where none answers a test is skipped with the reason; with
``CAIRN_TEST_ENGINE=required``, as in CI, it fails instead."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from events.errors import Transient
from infra.docker.engine import Engine, address

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
        message = f"{why}: `.ci/engine` provides it"
        if os.environ.get("CAIRN_TEST_ENGINE") == "required":
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """A client of the engine that answers here, where the base image is."""
    await require()
    async with Engine() as client:
        yield client
