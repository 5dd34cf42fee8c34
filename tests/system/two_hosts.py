"""Two workers with a folder each, and a scheduler, over one NATS server: two hosts on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil

from events import subjects
from events.checkpoints import PackWorkspace
from events.envelope import CommandEnvelope, Recorded
from events.kernel import Command, Event
from events.pipeline import DEVELOPMENT, Pipeline
from events.project import AddProject, ProjectSettings, Repository
from events.task import ApproveStage, ForkRun, SubmitTask, TaskSpecification
from infra.clock import SystemClock
from infra.jetstream.connection import JetStream
from infra.jetstream.streams import stream_configs
from infra.settings import Nats, Settings
from tests.service_process import ServiceProcess

# Longer than a process that lives is kept from its work.
LEASE_SECONDS = 3.0
WORKER_MODULES = {
    subjects.ENVIRONMENT_MANAGER: "services.environment_manager",
    subjects.AGENT_RUNNER: "services.agent_runner",
}


class Host:
    """One worker. ``kill`` is what a power failure is; ``pause`` what a network that is gone looks like to others."""

    def __init__(self, name: str, directory: Path, nats_url: str, environment: dict[str, str]) -> None:
        self.name = name
        self.home = directory / name
        self._nats_url = nats_url
        self._environment = environment | {"CAIRN_WORKER__HOST": name}
        self.services: list[ServiceProcess] = []

    def start(self) -> None:
        self.services = [
            ServiceProcess(name, ["-m", module], self.home, self._nats_url, **self._environment)
            for name, module in WORKER_MODULES.items()
        ]
        for service in self.services:
            service.until_ready()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        for service in self.services:
            service.popen.wait()

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self.go_on()
        self.kill()

    def processes(self) -> list[psutil.Process]:
        """The services, and the shims with all that they run."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                below = Path(process.cwd()).is_relative_to(self.home)
                if below or process.pid in {service.popen.pid for service in self.services}:
                    found.append(process)
        return found

    def workspace(self, environment_id: str) -> Path:
        return self.home / "environments" / environment_id / "workspace"

    def _signal(self, number: signal.Signals) -> None:
        # Parents last: a shim that lives must not see its children die.
        for process in sorted(self.processes(), key=lambda process: process.pid in self._own()):
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def _own(self) -> set[int]:
        return {service.popen.pid for service in self.services}


class TwoHosts:
    """``a`` is started, ``b`` is not yet. Everything that happened is in ``happened``, as it comes."""

    def __init__(
        self,
        directory: Path,
        nats_url: str,
        turns: list[dict[str, Any]],
        *,
        replicas: int = 1,
        environment: Mapping[str, str] = {},
    ) -> None:
        transcript = directory / "turns.json"
        transcript.write_text(json.dumps({"turns": turns}))
        settings_file = directory / "cairn.toml"
        settings_file.write_text(
            f'[agents.coder]\nkind = "model"\nprovider = "scripted"\ntranscript = "{transcript}"\n'
        )
        self._tenant = f"t{uuid.uuid4().hex[:8]}"
        environment = {
            **environment,
            "CAIRN_TENANT": self._tenant,
            "CAIRN_SETTINGS": str(settings_file),
            "CAIRN_WORKER__LEASE_SECONDS": str(LEASE_SECONDS),
            "CAIRN_SCHEDULING__RECONCILE_SECONDS": "0.5",
            "CAIRN_NATS__REPLICAS": str(replicas),
            "PYTHONPATH": str(Path.cwd()),
        }
        self._replicas = replicas
        self._directory = directory
        self._nats_url = nats_url
        self._environment = environment
        self.a = Host("a", directory, nats_url, environment)
        self.b = Host("b", directory, nats_url, environment)
        self.happened: list[tuple[Recorded, Event]] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._scheduler = ServiceProcess(
            subjects.SCHEDULER,
            ["-m", "services.scheduler"],
            self._directory / "control",
            self._nats_url,
            **self._environment,
        )
        self._scheduler.until_ready()
        self.a.start()
        settings = Settings(tenant=self._tenant, nats=Nats(url=self._nats_url, replicas=self._replicas))
        self._jetstream = await JetStream.connect(settings, "test")
        await self._jetstream.ensure_streams()
        self._following = await self._jetstream.log.follow(self._deliver, after=0)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.a.close()
        self.b.close()
        self._scheduler.close()
        await self._following.close()
        await self._jetstream.close()
        if exception[0] is not None:
            for service in (*self.a.services, *self.b.services, self._scheduler):
                print(f"== {service.name} {service.home}", *service.stderr.splitlines()[-25:], sep="\n")

    def _deliver(self, record: Recorded) -> None:
        self.happened += [(record, event) for event in record.envelope.events]
        self._changed.set()

    async def task(self, repository: Path, test_command: str, *, pipeline: Pipeline = DEVELOPMENT) -> str:
        """A task of a new project with the agent of the transcript."""
        project = ProjectSettings(
            repository=Repository(url=str(repository)), prefix="shop", test_command=test_command, pipeline=pipeline
        )
        await self._ask("project", AddProject(settings=project))
        specification = TaskSpecification(project="shop", title="Go on", agent="coder")
        return await self._ask("project", SubmitTask(specification=specification))

    async def fork(self, task: str, command: ForkRun) -> str:
        """A task that goes on from a step of a run of ``task``."""
        return await self._ask("task", command, task)

    async def approve(self, task: str, stage: str) -> None:
        await self._ask("task", ApproveStage(stage=stage), task)

    async def pack(self, host: Host, environment_id: str, commit: str) -> bytes:
        """The workspace of a checkpoint, as ``host`` gives it."""
        envelope = CommandEnvelope(
            id=uuid.uuid4().hex,
            tenant=self._tenant,
            entity=subjects.CHECKPOINT_TOKEN,
            entity_id=environment_id,
            time=SystemClock().now(),
            command=PackWorkspace(commit=commit),
        )
        bus = self._jetstream.commands
        outcome = await bus.ask(subjects.ENVIRONMENT_MANAGER, host.name, envelope, timeout_seconds=10)
        assert outcome is not None
        assert outcome.accepted, outcome.message
        data = await self._jetstream.content.get(outcome.content)
        assert data is not None
        return data

    async def _ask(self, entity: str, command: Command, id: str = "shop") -> str:
        envelope = CommandEnvelope(
            id=uuid.uuid4().hex,
            tenant=self._tenant,
            entity=entity,
            entity_id=id,
            time=SystemClock().now(),
            command=command,
        )
        outcome = await self._jetstream.commands.ask(subjects.SCHEDULER, subjects.ANY, envelope, timeout_seconds=10)
        assert outcome is not None
        assert outcome.accepted, outcome.message
        return outcome.entity_id

    async def settled(self) -> None:
        """Wait until every replica of every stream is there and has everything."""
        while True:
            configs = stream_configs(self._tenant, self._replicas)
            infos = [await self._jetstream._requests.api(f"STREAM.INFO.{config['name']}") for config in configs]
            clusters = [info["cluster"] for info in infos]
            if all(
                item.get("leader")
                and len(item.get("replicas", ())) == self._replicas - 1
                and all(map(_is_current, item["replicas"]))
                for item in clusters
            ):
                return
            await asyncio.sleep(0.1)

    async def replayed(self) -> list[Recorded]:
        """The whole log as it is now."""
        return [record async for batch in self._jetstream.log.replay() for record in batch]

    def all(self, kind: type[Event]) -> list[Any]:
        return [event for _, event in self.happened if isinstance(event, kind)]

    async def until(self, kind: type[Event], count: int = 1, seconds: float = 40.0) -> Any:
        """The ``count``-th event of a kind."""
        deadline = time.monotonic() + seconds
        while len(found := self.all(kind)) < count:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                told = "\n".join(f"{record.sequence} {str(event)[:300]}" for record, event in self.happened)
                message = f"{len(found)} of {count} {kind.__name__}:\n{told}"
                raise AssertionError(message) from None
        return found[count - 1]


def _is_current(replica: dict[str, Any]) -> bool:
    return bool(replica.get("current")) and not replica.get("offline")
