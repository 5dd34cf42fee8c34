"""Tests of the deployed stack need an engine with the base image; see ``tests.engine``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.deployment.deployment import Deployment, bridge_address
from tests.engine import require
from tests.otlp_receiver import OtlpReceiver, otlp_receiver


@pytest.fixture(scope="session", autouse=True)
def engine_answers() -> None:
    """Skips, or fails where CI requires an engine."""
    asyncio.run(require())


@pytest.fixture(scope="package")
def receiver() -> Iterator[OtlpReceiver]:
    """Where the services of the deployment send their traces."""
    with otlp_receiver(bridge_address()) as receiver:
        yield receiver


@pytest.fixture(scope="package")
def deployed(receiver: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The whole of docker-compose.yml, running; NATS listens where workers of other networks reach it."""
    directory = tmp_path_factory.mktemp("deployed")
    with Deployment(directory, listen=bridge_address(), CAIRN_OTLP_ENDPOINT=receiver.url) as deployment:
        yield deployment
