"""Sending slowed down."""

from __future__ import annotations

import pytest

from events.errors import Permanent
from events.faults import LimitBandwidth
from tests.docker.ground import Ground

pytestmark = pytest.mark.integration

# Megabytes a second, sent and echoed.
SPEED = """
import socket, sys, time, json, threading
s = socket.create_connection((sys.argv[1], 7000)); size = int(sys.argv[2]); got = 0
threading.Thread(target=s.sendall, args=(b"x" * size,), daemon=True).start()
began = time.time()
while got < size: got += len(s.recv(65536))
print(json.dumps(size / (time.time() - began) / 1e6))
"""


async def test_all_that_is_sent(ground: Ground) -> None:
    """8,000 kilobits a second are a megabyte, less the headers; afterwards there is no limit."""
    await ground.up("api", "database")
    await ground.inject(LimitBandwidth(service="api", kilobits_per_second=8000, duration_seconds=60))
    slow = await ground.run("api", SPEED, "database", 2_000_000)
    await ground.undo()
    assert 0.7 < slow < 1.15
    assert await ground.run("api", SPEED, "database", 20_000_000) > 10


async def test_only_to_the_peer(ground: Ground) -> None:
    """With a peer, what is sent to others is as fast as before."""
    await ground.up("api", "database", "cache")
    fault = LimitBandwidth(service="api", peer="database", kilobits_per_second=8000, duration_seconds=60)
    await ground.inject(fault)
    assert 0.7 < await ground.run("api", SPEED, "database", 1_500_000) < 1.2
    assert await ground.run("api", SPEED, "cache", 20_000_000) > 10
    await ground.undo()


async def test_a_foreign_discipline_is_left_alone(ground: Ground) -> None:
    """Where somebody else has set a queueing discipline, the fault is refused, and that stays."""
    await ground.up("api", CapAdd=["NET_ADMIN"])
    foreign = "tc qdisc add dev eth0 root handle 7: tbf rate 1gbit burst 64k latency 50ms"
    assert (await ground.shell("api", foreign)).exit_code == 0
    with pytest.raises(Permanent, match=r"has a queueing discipline that is not ours \(tbf 7:\)"):
        await ground.inject(LimitBandwidth(service="api", kilobits_per_second=8000, duration_seconds=60))
    assert "tbf 7:" in (await ground.shell("api", "tc qdisc show")).text
    assert (await ground.shell("api", "tc qdisc del dev eth0 root")).exit_code == 0
