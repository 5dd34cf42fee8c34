"""A model's provider to talk to, over connections of the product's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from services.agent_runner.adapters.http import Http
from tests.model_examples import TURNS
from tests.model_server import ModelServer


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    """It gives a provider five seconds."""
    http = Http(read_timeout_seconds=5.0)
    yield http
    await http.close()


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """Plays ``TURNS`` where a test adds no script of its own."""
    with ModelServer(TURNS) as server:
        yield server
