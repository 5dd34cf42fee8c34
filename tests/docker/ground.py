"""Containers to be hit: an environment of its own for each test, with what measures it, and a look at what is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from events.faults import AnyFault
from infra.docker import labels
from infra.docker.engine import Engine, Json, Ran
from services.chaos.adapters import records
from services.chaos.adapters.faults import DockerFaults
from services.chaos.adapters.ground import Ground as Below
from services.chaos.ports import Affected, Injected, Undone
from tests.engine import BASE_IMAGE

REMOVED_SECONDS = 10.0

IMAGE = "cairn-faults"
NO_GRACE = 0

# Echoes what it gets, on TCP and UDP, each connection on its own.
SERVER = """
import socket, threading
def serve(c):
    while data := c.recv(65536):
        c.sendall(data)
def tcp():
    s = socket.create_server(("", 7000))
    while True:
        threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
threading.Thread(target=tcp, daemon=True).start()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("", 7000))
while True:
    u.sendto(*u.recvfrom(65536))
"""

# Round trips on one connection: milliseconds each.
ROUND_TRIPS = """
import socket, sys, time, json
s = socket.create_connection((sys.argv[1], 7000), timeout=10)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
took = []
for _ in range(int(sys.argv[2])):
    began = time.perf_counter(); s.sendall(b"x"); s.recv(1)
    took.append((time.perf_counter() - began) * 1000)
print(json.dumps(took))
"""

# Datagrams sent a hundred at a time, so that no buffer is full, and how many came back, some of them with later ones.
DATAGRAMS = """
import socket, sys, json
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.connect((sys.argv[1], 7000))
errors = 0; back = 0; sent = 0; count = int(sys.argv[2])
while sent < count:
    some = min(100, count - sent); sent += some
    for number in range(some):
        try: u.send(b"x")
        except OSError: errors += 1
    u.settimeout(1.0 if sent == count else 0.05)
    try:
        while back < sent and u.recv(10): back += 1
    except OSError: pass
print(json.dumps({"errors": errors, "back": back}))
"""

# One connection, for as long as the file is not there: the longest silence, what went wrong, how many answers came.
CONVERSATION = """
import os, socket, sys, time, json
s = socket.create_connection((sys.argv[1], 7000), timeout=20)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
last = time.time(); gap = 0; count = 0; error = ""
try:
    while not os.path.exists("/tmp/enough"):
        s.sendall(b"x"); s.recv(1)
        gap = max(gap, time.time() - last); last = time.time(); count += 1
        if count == 5: open("/tmp/talks", "w").close()
        time.sleep(0.02)
except OSError as e:
    error = type(e).__name__
print(json.dumps({"gap": gap, "error": error, "count": count}))
"""

# Whether a new connection can be made: how, and how long that took.
CONNECT = """
import socket, sys, time, json
began = time.time(); how = "connected"
try: socket.create_connection((sys.argv[1], 7000), timeout=float(sys.argv[2])).close()
except Exception as e: how = type(e).__name__
print(json.dumps({"how": how, "seconds": time.time() - began}))
"""

# Every table and queueing discipline but those of the engine (names are translated in ``nat``) and of each device.
RULES = "nft list tables | grep -v 'ip nat'; tc qdisc show | grep -v noqueue; true"


class Ground:
    """``environment`` is one of this test's own; ``network`` is too."""

    def __init__(self, engine: Engine, environment: str) -> None:
        self.engine = engine
        self.environment = environment
        self.network = f"cairn-test-{environment}"
        self.faults = self.another()
        self.made: dict[str, str] = {}
        self.volumes: list[str] = []
        self._owners = [environment]
        self._ids: list[str] = []

    @property
    def below(self) -> Below:
        """What the adapters stand on."""
        return Below(self.engine, IMAGE, "test", "test", self.environment)

    def another(self) -> DockerFaults:
        """The faults as another process of the same stack sees them."""
        return DockerFaults(
            self.engine,
            tenant="test",
            host="test",
            owner=self.environment,
            image=IMAGE,
            base_image=BASE_IMAGE,
            projects=(f"{self.environment}-project",),
        )

    async def up(self, *names: str, argv: Sequence[str] = (), marks: Json | None = None, **host: Any) -> None:
        """Containers of services of these names that echo, or run ``argv``."""
        for name in names:
            configuration = {
                "Image": BASE_IMAGE,
                "Cmd": list(argv) or ["python3", "-c", SERVER],
                "Labels": {
                    labels.ENVIRONMENT: self.environment,
                    labels.ROLE: labels.SERVICE,
                    labels.COMPOSE_SERVICE: name,
                    **(marks or {}),
                },
                "StopSignal": "SIGKILL",
                "HostConfig": {"NetworkMode": self.network, **host},
                "NetworkingConfig": {"EndpointsConfig": {self.network: {"Aliases": [name]}}}
                if "NetworkMode" not in host
                else {},
            }
            id = await self.engine.create(configuration, name=f"{self.network}-{name}-{len(self._ids)}")
            self._ids.append(id)
            self.made[name] = id
            await self.engine.start(id)
        for name in names if not argv else ():
            await self.answers(name)

    async def answers(self, name: str) -> None:
        """Wait until the echo of a container listens."""
        listening = "until grep -q ':1B58 .* 0A ' /proc/net/tcp; do sleep 0.02; done"
        assert (await self.engine.run(self.made[name], ["sh", "-c", listening], seconds=20)).exit_code == 0

    async def run(self, name: str, script: str, *words: object, seconds: float = 60.0) -> Any:
        """What a Python script in the container prints, as JSON."""
        argv = ["python3", "-c", script, *map(str, words)]
        ran = await self.engine.run(self.made[name], argv, seconds=seconds)
        assert ran.exit_code == 0, ran.text
        return json.loads(ran.text)

    @contextlib.asynccontextmanager
    async def conversation(self, one: str, other: str) -> AsyncIterator[Json]:
        """One container talks with another on one connection; how that was stands in the answer afterwards: ``gap`` is
        the longest silence in seconds, ``error`` what broke it, ``count`` how many answers came."""
        told: Json = {}
        talking = asyncio.create_task(self.run(one, CONVERSATION, other, seconds=40))
        begun = await self.shell(one, "until test -e /tmp/talks; do sleep 0.02; done")
        assert begun.exit_code == 0
        yield told
        await self.shell(one, "touch /tmp/enough")
        told.update(await talking)

    async def shell(self, name: str, line: str) -> Ran:
        return await self.engine.run(self.made[name], ["sh", "-c", line])

    async def round_trip(self, one: str, other: str, times: int = 5) -> float:
        """Milliseconds from one container to another and back, the middle one of several."""
        took = sorted(await self.run(one, ROUND_TRIPS, other, times))
        return float(took[len(took) // 2])

    async def state(self, name: str) -> Json:
        return dict((await self.engine.inspect(self.made[name]))["State"])

    async def until(self, name: str, met: Callable[[Json], bool], *, seconds: float = 15.0) -> Json:
        """The container's state as soon as it is like that."""
        async with asyncio.timeout(seconds):
            while True:
                if met(state := await self.state(name)):
                    return state
                await asyncio.sleep(0.05)

    async def inject(self, fault: AnyFault, fault_id: str = "") -> Injected:
        """Have the fault, with its own duration from now."""
        whom = await self.faults.resolve(self.environment, fault)
        until = time.time() + fault.duration_seconds
        return await self.faults.inject(fault_id or f"{self.environment}-f1", fault, whom, until)

    async def undo(self, fault_id: str = "") -> Undone:
        undone = await self.faults.undo(fault_id or f"{self.environment}-f1")
        assert undone.stuck == ()
        return undone

    async def resolve(self, fault: AnyFault) -> Affected:
        return await self.faults.resolve(self.environment, fault)

    async def rules(self, name: str) -> str:
        """What changes packets in a container's network namespace, but for the engine's own."""
        place = {"NetworkMode": f"container:{self.made[name]}", "CapAdd": ["NET_ADMIN"]}
        configuration = {"Image": IMAGE, "Entrypoint": ["sh", "-c", RULES], "HostConfig": place}
        id = await self.engine.create(configuration)
        try:
            await self.engine.start(id)
            await self.engine.wait(id, seconds=20)
            return await self.engine.logs(id)
        finally:
            await self.engine.remove(id)

    def owns(self, owner: str) -> None:
        """Faults of this stack are this test's too."""
        self._owners.append(owner)

    async def holders(self, *, running: bool = False) -> list[Json]:
        """The records of this environment's faults, and what else was made for them."""
        marks = [{labels.ROLE: labels.FAULT, records.OWNER: owner} for owner in self._owners]
        return [each for mark in marks for each in await self.engine.containers(mark, running=running)]

    async def down(self) -> None:
        for holder in await self.holders():
            await self.engine.remove(holder["Id"])
        for id in self._ids:
            await self.engine.remove(id)
        await self.engine.request("DELETE", f"networks/{self.network}")
        for volume in self.volumes:
            await self.engine.request("DELETE", f"volumes/{volume}")


@pytest.fixture
async def ground(engine: Engine) -> AsyncIterator[Ground]:
    """An environment with a network; what a test leaves of faults fails it."""
    ground = Ground(engine, f"f-{uuid.uuid4().hex[:10]}")
    await engine.request("POST", "networks/create", body={"Name": ground.network})
    try:
        yield ground
        deadline = time.monotonic() + REMOVED_SECONDS
        while left := [holder["Names"] for holder in await ground.holders()]:
            assert time.monotonic() < deadline, left  # An experiment's end is told before the last record goes.
            await asyncio.sleep(0.1)
        for name in ground.made:
            if (await ground.state(name))["Running"]:
                assert await ground.rules(name) == ""
    finally:
        await ground.down()
