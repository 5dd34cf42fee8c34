"""A share of packets lost."""

from __future__ import annotations

import pytest

from events.faults import PacketLoss
from tests.docker.ground import DATAGRAMS, Ground

pytestmark = pytest.mark.integration

SENT = 3000


async def test_the_share_that_was_asked_for(ground: Ground) -> None:
    """Of the datagrams that come in from the peer the share is lost that was asked for, of others none."""
    await ground.up("api", "database", "cache")
    await ground.inject(PacketLoss(service="api", peer="database", percent=30, duration_seconds=60))
    hit = await ground.run("api", DATAGRAMS, "database", SENT)
    beside = await ground.run("api", DATAGRAMS, "cache", SENT)
    await ground.undo()
    # Five standard deviations of 3,000 throws are 4.2 %.
    assert 0.25 < 1 - hit["back"] / SENT < 0.35
    assert 1 - beside["back"] / SENT < 0.02
    after = await ground.run("api", DATAGRAMS, "database", SENT)
    assert 1 - after["back"] / SENT < 0.02
