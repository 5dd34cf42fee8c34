"""Experiments on a small system in a real engine: the faults, the probes and the undoing are real, the log is in
memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from events.chaos import CHAOS
from events.envelope import CommandEnvelope, Outcome
from events.environment import ENVIRONMENT
from events.experiment import EXPERIMENT, AbortExperiment, Experiment, RunExperiment
from events.kernel import Command
from infra.clock import SystemClock
from infra.docker import labels
from infra.entities import Cause, EntityStore
from infra.memory.plumbing import Memory
from infra.sender import Sender
from services.chaos import policy
from services.chaos.adapters.world import DockerWorld
from services.chaos.commands import EnvironmentCommands
from services.chaos.document import Http
from services.chaos.handlers import Handlers
from services.chaos.keeper import Keeper
from services.chaos.runner import Plumbing, Runner
from tests.docker.ground import Ground
from tests.engine import BASE_IMAGE
from tests.unit.environment_twins import PREPARED
from tests.waiting import until

pytestmark = pytest.mark.integration

# Answers 200 where the worker echoes within a second, else 503.
API = """
import http.server, socket
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            with socket.create_connection(("worker", 7000), timeout=0.5) as s:
                s.sendall(b"x"); s.settimeout(0.5); ok = s.recv(1) == b"x"
        except OSError as error:
            ok = False
        self.send_response(200 if ok else 503); self.end_headers()
        self.wfile.write(b'{"worker": "there"}' if ok else b"no worker answers")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
"""
HEALTH = {"type": "http", "url": "http://${api:8080}/health", "timeout": 2}


class Chaos:
    """The chaos service over one ground, as its ``__main__`` puts it together, but for the log."""

    def __init__(self, ground: Ground, memory: Memory) -> None:
        clock = SystemClock()
        self.memory = memory
        self.world = DockerWorld(ground.engine)
        self.ground = ground
        experiments = EntityStore(memory.log, EXPERIMENT, clock)
        sender = Sender(memory.commands, clock, tenant="default", name="chaos")
        plumbing = Plumbing(
            experiments=experiments,
            faults=ground.another(),
            world=self.world,
            commands=EnvironmentCommands(memory.log, sender, memory.content, clock, "here"),
            clock=clock,
            rules=policy.Rules(),
            host="here",
        )
        self.runner = Runner(plumbing)
        chaos = EntityStore(memory.log, CHAOS, clock)
        self.handlers = Handlers(plumbing, self.runner, EntityStore(memory.log, ENVIRONMENT, clock), chaos)
        self.keeper = Keeper(memory.log, plumbing, self.runner, chaos)

    async def start(self) -> Chaos:
        self._following = await self.keeper.start()
        self._keeping = asyncio.create_task(self.keeper.run())
        return self

    async def kill(self) -> None:
        self._keeping.cancel()
        await self.runner.stop()
        await self._following.close()
        await asyncio.gather(self._keeping, return_exceptions=True)

    async def send(self, command: Command) -> Outcome:
        envelope = CommandEnvelope(
            id=type(command).__name__,
            tenant="default",
            entity=EXPERIMENT.name,
            entity_id=self.id,
            time=SystemClock().now(),
            command=command,
        )
        return await self.handlers.handle(envelope)

    @property
    def id(self) -> str:
        return f"{self.ground.environment}-x"

    async def run(self, *method: dict[str, Any], **extension: Any) -> Outcome:
        document = {
            "title": "The worker is cut off",
            "steady-state-hypothesis": {"probes": [{"name": "health", "tolerance": 200, "provider": HEALTH}]},
            "method": list(method),
            "extensions": [{"name": "cairn", "recovery_seconds": 15, **extension}],
        }
        text = msgspec.json.encode(document).decode()
        return await self.send(RunExperiment(document=text, target=self.ground.environment))

    async def is_healthy(self) -> bool:
        return (await self.world.ask(self.ground.environment, Http(url=str(HEALTH["url"])))).value == 200

    async def state(self) -> Experiment:
        records = await self.memory.log.load(EXPERIMENT.name, self.id)
        return EXPERIMENT.fold(self.id, [event for record in records for event in record.envelope.events])

    async def until(self, status: str) -> Experiment:
        async with asyncio.timeout(40):
            while (state := await self.state()).status != status:
                assert state.verdict is None, state.verdict
                await asyncio.sleep(0.1)
        return state


@pytest.fixture
async def chaos(ground: Ground) -> AsyncIterator[Chaos]:
    """A worker, an API in front of it, and the chaos service of their environment."""
    await ground.up("worker")
    api = await _api(ground)
    memory = Memory()
    store = EntityStore(memory.log, ENVIRONMENT, SystemClock())
    await store.decide(ground.environment, Cause(id="prepared"), lambda state: (PREPARED,))
    chaos = await Chaos(ground, memory).start()

    await until(chaos.is_healthy, seconds=20.0)
    yield chaos
    await chaos.kill()
    await ground.engine.remove(api)


async def _api(ground: Ground) -> str:
    """The API, published on a free port of this host."""
    configuration = {
        "Image": BASE_IMAGE,
        "Cmd": ["python3", "-c", API],
        "Labels": {
            labels.ENVIRONMENT: ground.environment,
            labels.ROLE: labels.SERVICE,
            labels.COMPOSE_SERVICE: "api",
        },
        "ExposedPorts": {"8080/tcp": {}},
        "HostConfig": {
            "NetworkMode": ground.network,
            "DnsOptions": ["ndots:1"],  # A service that is down has no address; nobody outside is asked for it.
            "PortBindings": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
        },
    }
    id = await ground.engine.create(configuration, name=f"{ground.network}-api")
    await ground.engine.start(id)
    return id


def cut(seconds: float) -> dict[str, Any]:
    fault = {"type": "fault", "kind": "drop_network", "service": "api", "peer": "worker", "duration_seconds": seconds}
    return {"type": "action", "name": "cut off", "provider": fault}


async def test_a_partition_is_seen_undone_and_recovered_from(chaos: Chaos) -> None:
    """The API says so while it lasts, the samples tell, and the measured recovery is that of the real connection."""
    watched = {"name": "health", "tolerance": 200, "provider": HEALTH, "interval_seconds": 0.2, "hold": 0.1}
    assert (await chaos.run(cut(5), observe=[watched])).accepted
    state = await chaos.until("completed")
    samples = state.samples["health"]
    assert samples.failed >= 1
    assert "no worker answers" in samples.failures[0].value
    assert state.recovery_seconds is not None
    assert state.recovery_seconds < 10


async def test_a_system_that_does_not_hold_deviates(chaos: Chaos) -> None:
    """A killed worker, and a sample that had to hold: the finding quotes what the API answered."""
    kill = {"type": "fault", "kind": "kill_service", "service": "worker", "duration_seconds": 6}
    watched = {"name": "health", "tolerance": 200, "provider": HEALTH, "interval_seconds": 0.2}
    state_probe = {
        "type": "probe",
        "name": "it is down",
        "tolerance": "exited",
        "provider": {"type": "container_state", "service": "worker"},
    }
    background = {"type": "action", "name": "kill", "provider": kill, "background": True, "pauses": {"after": 1}}
    await chaos.run(background, state_probe, observe=[watched])
    state = await chaos.until("deviated")
    assert [finding.kind for finding in state.verdict.findings] == ["samples-failed", "recovery"]  # type: ignore[union-attr]
    assert "no worker answers" in state.verdict.findings[0].text  # type: ignore[union-attr]
    assert (await chaos.ground.state("worker"))["Running"]


async def test_another_process_goes_on_with_the_fault(chaos: Chaos) -> None:
    """The service dies while the fault holds; the next one undoes it at its end and comes to the verdict."""
    await chaos.run(cut(4))
    await chaos.until("observing")
    await chaos.kill()
    following = await Chaos(chaos.ground, chaos.memory).start()
    state = await following.until("completed")
    await following.kill()
    await chaos.start()
    assert state.resumed == 1
    assert state.recovery_seconds is not None


async def test_an_abort_undoes_at_once(chaos: Chaos) -> None:
    """Long before its end the fault is gone, and the system answers again."""
    await chaos.run(cut(300))
    await chaos.until("observing")
    await chaos.send(AbortExperiment(reason="enough"))
    await chaos.until("aborted")
    await until(chaos.is_healthy, seconds=20.0)


async def test_what_is_not_published_is_said(chaos: Chaos) -> None:
    """A probe of a port that nobody published is no steady state, and the reason says which ports are."""
    document = {
        "title": "t",
        "steady-state-hypothesis": {
            "probes": [{"name": "p", "tolerance": 200, "provider": {**HEALTH, "url": "http://${api:9}/"}}]
        },
        "method": [cut(1)],
    }
    await chaos.send(RunExperiment(document=msgspec.json.encode(document).decode(), target=chaos.ground.environment))
    state = await _ended(chaos)
    assert "api has no published port 9: it publishes 8080/tcp" in state.verdict.detail  # type: ignore[union-attr]


async def _ended(chaos: Chaos) -> Experiment:
    async def ended() -> Experiment | None:
        state = await chaos.state()
        return state if state.verdict is not None else None

    found: Experiment = await until(ended, seconds=20.0)
    return found
