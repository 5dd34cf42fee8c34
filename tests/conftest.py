"""What every test may use: a real NATS server, one for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nats_server import NatsServer

pytest_plugins = ["tests.postgres_server"]


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real nats-server with JetStream and default sync. Tests keep apart by their tenants."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server.url
    server.stop()
