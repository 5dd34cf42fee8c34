"""No answers to DNS queries."""

from __future__ import annotations

import pytest

from events.faults import DnsFailure
from tests.docker.ground import CONNECT, Ground

pytestmark = pytest.mark.integration


async def test_names_do_not_resolve(ground: Ground) -> None:
    """Names do not resolve in the container that is hit, while addresses are reached and others resolve names."""
    await ground.up("api", "database")
    address = (await ground.shell("api", "getent hosts database")).text.split()[0]
    await ground.inject(DnsFailure(service="api", duration_seconds=60))
    lookup = "getent ahostsv4 {}"
    impatient = f"RES_OPTIONS='timeout:1 attempts:1' {lookup}"
    assert (await ground.shell("api", impatient.format("database"))).exit_code != 0
    assert (await ground.run("api", CONNECT, address, 20))["how"] == "connected"
    assert (await ground.shell("database", lookup.format("api"))).exit_code == 0
    await ground.undo()
    assert (await ground.shell("api", lookup.format("database"))).exit_code == 0
