"""What every test may use: a real NATS server, one for the whole session."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.engine import BASE_IMAGE
from tests.nats_server import NatsServer

pytest_plugins = ["tests.postgres_server"]

# Whoever starts the tests in the background of a script has them ignore SIGINT, and all that they start with them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Stacks that tests start build what holds faults from the image that is at hand, without a registry.
os.environ.setdefault("CAIRN_CHAOS__BASE_IMAGE", BASE_IMAGE)


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real nats-server with JetStream and default sync. Tests keep apart by their tenants."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server.url
    server.stop()
