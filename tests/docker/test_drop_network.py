"""A partition between two containers, or between one and everybody."""

from __future__ import annotations

import asyncio

import pytest

from events.faults import DropNetwork
from tests.docker.ground import CONNECT, DATAGRAMS, Ground

pytestmark = pytest.mark.integration


async def test_a_connection_stalls_and_goes_on(ground: Ground) -> None:
    """While two are cut off from each other a connection between them stalls without an error, and goes on afterwards;
    neither side reaches the other, names still resolve, datagrams are lost without an error, others are reached."""
    await ground.up("api", "database", "cache")
    async with ground.conversation("api", "database") as talked:
        await ground.inject(DropNetwork(service="api", peer="database", duration_seconds=60))
        there, back, beside, lost, name = await asyncio.gather(
            ground.run("api", CONNECT, "database", 0.5),
            ground.run("database", CONNECT, "api", 0.5),
            ground.run("api", CONNECT, "cache", 20),
            ground.run("database", DATAGRAMS, "api", 10),
            ground.shell("api", "getent hosts database"),
        )
        await ground.undo()
    assert (there["how"], back["how"], beside["how"]) == ("TimeoutError", "TimeoutError", "connected")
    assert lost == {"errors": 0, "back": 0}
    assert name.exit_code == 0
    assert talked["error"] == ""
    assert talked["gap"] > 0.5
    assert talked["count"] > 5
    assert (await ground.run("database", CONNECT, "api", 20))["how"] == "connected"


async def test_reset(ground: Ground) -> None:
    """In reset mode an open connection breaks and a new one is refused at once, on both sides."""
    await ground.up("api", "database")
    async with ground.conversation("api", "database") as talked:
        await ground.inject(DropNetwork(service="api", peer="database", mode="reset", duration_seconds=60))
    assert talked["error"] in ("ConnectionResetError", "BrokenPipeError")
    for one, other in (("api", "database"), ("database", "api")):
        refused = await ground.run(one, CONNECT, other, 3)
        assert refused["how"] == "ConnectionRefusedError"
        assert refused["seconds"] < 2
    await ground.undo()
    assert (await ground.run("api", CONNECT, "database", 20))["how"] == "connected"


async def test_cut_from_everybody(ground: Ground) -> None:
    """Without a peer nobody is reached, in either direction and also not by a datagram that wants no answer, while the
    container talks with itself; the others go on."""
    await ground.up("api", "database", "cache")
    count = "import json; print(json.dumps([l.split() for l in open('/proc/net/snmp') if l.startswith('Udp:')][1][1]))"
    await ground.inject(DropNetwork(service="api", duration_seconds=60))
    before = int(await ground.run("database", count))
    assert await ground.run("api", DATAGRAMS, "database", 10) == {"errors": 0, "back": 0}
    assert int(await ground.run("database", count)) == before
    out, back, own, beside = await asyncio.gather(
        ground.run("api", CONNECT, "cache", 0.5),
        ground.run("cache", CONNECT, "api", 0.5),
        ground.run("api", CONNECT, "127.0.0.1", 20),
        ground.run("cache", CONNECT, "database", 20),
    )
    assert [each["how"] for each in (out, back, own, beside)] == ["TimeoutError", "TimeoutError", *["connected"] * 2]
    await ground.undo()
    assert (await ground.run("cache", CONNECT, "api", 20))["how"] == "connected"


async def test_reset_from_everybody(ground: Ground) -> None:
    """Reset mode without a peer refuses what comes in and what goes out at once."""
    await ground.up("api", "database")
    await ground.inject(DropNetwork(service="api", mode="reset", duration_seconds=60))
    for one, other in (("api", "database"), ("database", "api")):
        refused = await ground.run(one, CONNECT, other, 3)
        assert (refused["how"], refused["seconds"] < 2) == ("ConnectionRefusedError", True)
    await ground.undo()
