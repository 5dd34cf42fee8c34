"""Signing in at NATS by the seed of an nkey, with an inbox of one's own and nothing else allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nkeys
import pytest

from events.errors import CairnError, Permanent
from infra.jetstream.connection import JetStream
from infra.settings import Nats, Settings
from tests.nats_server import NatsServer

pytestmark = pytest.mark.integration

INBOX = "_INBOX_worker"


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    path = tmp_path / "seed"
    path.write_bytes(nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER) + b"\n")
    return path


@pytest.fixture
def server(tmp_path: Path, seed: Path) -> Iterator[NatsServer]:
    user = nkeys.from_seed(bytearray(seed.read_bytes().strip())).public_key.decode()
    allowed = f'publish: "$JS.API.STREAM.>", subscribe: "{INBOX}.>"'
    server = NatsServer(
        tmp_path / "nats", settings=f"authorization {{ users: [{{ nkey: {user}, permissions: {{ {allowed} }} }}] }}"
    )
    server.start()
    yield server
    server.stop()


async def test_a_seed_signs_in(server: NatsServer, seed: Path) -> None:
    """The answers come to the inbox that the user may see; what it may not do is said with the subject."""
    settings = Settings(nats=Nats(url=server.url, credentials_file=str(seed), inbox=INBOX))
    jetstream = await JetStream.connect(settings, "test")
    await jetstream.ensure_streams()
    assert await jetstream.log.last_sequence() == 0
    with pytest.raises(Permanent, match=r"may not publish to \$JS.API.CONSUMER"):
        await jetstream.log.follow(lambda record: None, after=0)
    await jetstream.close()


async def test_without_a_seed_nobody_is_let_in(server: NatsServer) -> None:
    """The message names the setting."""
    with pytest.raises(CairnError, match=r"turned us away.*nats.credentials_file"):
        await JetStream.connect(Settings(nats=Nats(url=server.url)), "test")


async def test_a_file_that_is_not_there(server: NatsServer) -> None:
    """It is said at once, not waited for."""
    with pytest.raises(Permanent, match="/nowhere/seed cannot be read"):
        await JetStream.connect(Settings(nats=Nats(url=server.url, credentials_file="/nowhere/seed")), "test")
