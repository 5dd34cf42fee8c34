"""Packets held back."""

from __future__ import annotations

import pytest

from events.faults import AddLatency
from tests.docker.ground import ROUND_TRIPS, Ground

pytestmark = pytest.mark.integration


async def test_round_trips_take_longer(ground: Ground) -> None:
    """Round trips with the peer take as much longer as was asked for, on new connections and on one that was open, from
    either side; those with others do not, and afterwards none does."""
    await ground.up("api", "database", "cache")
    before = await ground.round_trip("api", "database", 15)
    async with ground.conversation("api", "database") as talked:
        await ground.inject(AddLatency(service="api", peer="database", delay_milliseconds=100, duration_seconds=60))
        out = await ground.round_trip("api", "database")
        back = await ground.round_trip("database", "api")
        beside = await ground.round_trip("api", "cache")
        await ground.undo()
    assert 98 < out < before + 160
    assert 98 < back < before + 160
    assert beside < 60
    assert talked["error"] == ""
    assert talked["gap"] > 0.1
    assert await ground.round_trip("api", "database") < 60


async def test_jitter_and_order(ground: Ground) -> None:
    """With jitter round trips differ around the delay, within its bounds, and a stream of bytes keeps its order."""
    await ground.up("api", "database")
    await ground.inject(AddLatency(service="api", delay_milliseconds=40, jitter_milliseconds=20, duration_seconds=60))
    took = sorted(await ground.run("api", ROUND_TRIPS, "database", 60))
    # Drawn evenly from 20 to 60: that fewer than four of 60 lie on one side of 40 never happens.
    assert took[0] > 18
    assert took[3] < 40 < took[-4]
    assert took[30] < 75
    stream = """
import socket, sys, json, threading
s = socket.create_connection((sys.argv[1], 7000)); got = bytearray()
data = bytes(i * 7 % 251 for i in range(2_000_000))
threading.Thread(target=s.sendall, args=(data,), daemon=True).start()
while len(got) < len(data): got += s.recv(65536)
print(json.dumps(got == data))
"""
    assert await ground.run("api", stream, "database") is True
    await ground.undo()
