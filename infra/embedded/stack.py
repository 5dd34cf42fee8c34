"""The whole of Cairn on one host: both servers and all services, kept alive until they are stopped.

Everything comes up at the same time: services wait for the servers by themselves. On the way down the services go
first, since they still write. Processes that a killed stack left running are ended before a new
one starts; the shims of environments are none of them and go on.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import psutil

from events import subjects
from events.errors import CairnError
from infra.api_keys import ensure_local_key
from infra.docker.address import may_answer
from infra.embedded import stack_file
from infra.embedded.nats_server import NatsServer
from infra.embedded.ports import hold_port, port_of
from infra.embedded.postgres_server import PostgresServer
from infra.embedded.program import POLL_SECONDS
from infra.embedded.room import RoomWatch
from infra.embedded.service_program import ServiceProgram
from infra.embedded.stack_file import StackFile, StackProcess
from infra.embedded.supervisor import Report, Started, Supervisor
from infra.settings import Settings

MINIMUM_FREE_BYTES = 200_000_000
LEFTOVER_SECONDS = 10.0

# What a service needs besides the grace that its settings give it, to end on its own.
STOP_MARGIN_SECONDS = 5.0

SERVERS = ("nats-server", "postgres")
SERVICES = {
    subjects.SCHEDULER: "services.scheduler",
    subjects.AGENT_RUNNER: "services.agent_runner",
    subjects.ENVIRONMENT_MANAGER: "services.environment_manager",
    subjects.CHAOS: "services.chaos",
    subjects.NOTIFIER: "services.notifier",
    subjects.PROJECTOR: "projections",
    subjects.GATEWAY: "services.gateway",
}


class CannotStart(CairnError):
    """The stack cannot start here; the message says what to do."""


class PortInUse(CannotStart):
    """Something else listens where the gateway is to listen."""


class AlreadyRunning(CannotStart):
    """A stack of this home runs already."""


class Stack:
    """One home's processes. ``report`` is told what happens to them, from other threads.

    ``variables_of`` gives a service environment variables of its own, over those that all of them get.
    """

    def __init__(
        self,
        home: Path,
        settings: Settings,
        *,
        settings_file: Path | None = None,
        variables_of: Callable[[str, StackFile], Mapping[str, str]] = lambda name, file: {},
        report: Callable[[Report], None] = lambda report: None,
    ) -> None:
        self.home = home.absolute()
        self._settings = settings
        self._settings_file = settings_file
        self._variables_of = variables_of
        self._report = report
        self._port = settings.gateway.port
        self._lock: int | None = None
        self._held: socket.socket | None = None
        self._nats: NatsServer | None = None
        self._file: StackFile | None = None
        self._writing = threading.Lock()
        self._room: RoomWatch | None = None
        self.supervisor = Supervisor(self._heard)

    @property
    def url(self) -> str:
        host = self._settings.gateway.host
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"http://{shown}:{self._port}"

    def start(self) -> None:
        """Start everything, without waiting until it is ready. Raises ``CannotStart``, ``StartFailed``."""
        self._make_home()
        self._lock = stack_file.try_lock(self.home)
        if self._lock is None:
            message = f"Cairn runs already with the home {self.home}. See `cairn status`, or stop it with `cairn down`."
            raise AlreadyRunning(message)
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything: services first, then the servers. Nothing of the stack runs afterwards."""
        if self._room is not None:
            self._room.stop()
        keepers = self.supervisor.keepers
        self.supervisor.stop([name for name in keepers if name not in SERVERS])
        self.supervisor.stop([name for name in keepers if name in SERVERS])
        for held in (self._held, self._nats):
            if held is not None:
                held.close()
        if self._lock is not None:
            (self.home / stack_file.FILE_NAME).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _make_home(self) -> None:
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.home.chmod(0o700)
        except OSError as error:
            message = f"{self.home} cannot be used as home ({error.strerror}): choose another one with --home."
            raise CannotStart(message) from error

    def _start(self) -> None:
        check_space(self.home)
        end_leftovers(self.home)
        gateway = self._settings.gateway
        try:
            # Until the end: while the gateway starts, or is started again, nobody else is given its port.
            self._held = hold_port(self._port, gateway.host)
        except OSError as error:
            message = f"Port {self._port} on {gateway.host} is in use: choose another one with --port."
            raise PortInUse(message) from error
        self._port = port_of(self._held)
        ensure_local_key(self.home)
        logs = self.home / "logs"
        self._nats = nats = NatsServer(self.home / "nats", log_path=logs / "nats-server.log")
        postgres = PostgresServer(self.home / "postgres", log_path=logs / "postgres.log")
        own = psutil.Process()
        file = StackFile(
            url=self.url,
            pid=own.pid,
            started=own.create_time(),
            nats_url=nats.url,
            postgres_url=postgres.url,
        )
        self._write(file)
        self.supervisor.add(nats)
        self.supervisor.add(postgres)
        self._room = RoomWatch(nats, self.home, lambda: self.supervisor.restart([nats.name]), self._report)
        self._room.start()
        # Without an engine there is nothing that it could end.
        reaper = {"reaper": "services.chaos.reaper"} if may_answer() else {}
        for name, module in (SERVICES | reaper).items():
            program = ServiceProgram(
                name,
                module,
                home=self.home,
                directory=self.home.parent,
                environment={**self._environment(nats.url, postgres.url), **self._variables_of(name, file)},
                stop_seconds=self._settings.worker.grace_seconds + STOP_MARGIN_SECONDS,
            )
            self.supervisor.add(program)

    def _environment(self, nats_url: str, postgres_url: str) -> dict[str, str]:
        environment = {
            "CAIRN_HOME": str(self.home),
            "CAIRN_NATS__URL": nats_url,
            "CAIRN_NATS__SYNC": "always",
            "CAIRN_POSTGRES__URL": postgres_url,
            "CAIRN_GATEWAY__PORT": str(self._port),
            # Six services share these settings: each takes a free port and tells it in its run file.
            "CAIRN_TELEMETRY__HEALTH_PORT": "0",
        }
        if self._settings.worker.bundle_checkpoints == "auto":
            # The store lies on the same disk as the workspaces: whoever loses the one loses the other.
            environment["CAIRN_WORKER__BUNDLE_CHECKPOINTS"] = "never"
        if self._settings_file is not None:
            environment["CAIRN_SETTINGS"] = str(self._settings_file)
        return environment

    def _heard(self, report: Report) -> None:
        if isinstance(report, Started):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._remember(report.name, StackProcess(report.pid, psutil.Process(report.pid).create_time()))
        self._report(report)

    def _remember(self, name: str, process: StackProcess) -> None:
        with self._writing:
            if self._file is not None:
                processes = {**self._file.processes, name: process}
                self._write(msgspec.structs.replace(self._file, processes=processes))

    def _write(self, file: StackFile) -> None:
        self._file = file
        stack_file.write(self.home, file)


def check_space(home: Path, minimum_bytes: int = MINIMUM_FREE_BYTES) -> None:
    """Raises ``CannotStart`` where the disk of ``home`` is nearly full: a store that cannot grow stops all work."""
    free = shutil.disk_usage(home).free
    if free < minimum_bytes:
        message = (
            f"Only {free // 1_000_000} MB are free on the disk of {home}, and the store needs at least "
            f"{minimum_bytes // 1_000_000} MB: free some, or choose another place with --home."
        )
        raise CannotStart(message)


def end_leftovers(home: Path) -> list[str]:
    """End what a stack of this home that was killed has left running; answers the names. Its lock must be held."""
    file = stack_file.read(home)
    if file is None:
        return []
    found = {name: found for name, entry in file.processes.items() if (found := find_process(entry)) is not None}
    _end([process for name, process in found.items() if name not in SERVERS], signal.SIGTERM)
    _end([process for name, process in found.items() if name in SERVERS], signal.SIGINT)
    (home / stack_file.FILE_NAME).unlink(missing_ok=True)
    return list(found)


def find_process(entry: StackProcess | StackFile) -> psutil.Process | None:
    """The process that ``entry`` names, if it is still that one and lives."""
    try:
        process = psutil.Process(entry.pid)
        same = abs(process.create_time() - entry.started) < 1.0
        return process if same and _lives(process) else None
    except psutil.NoSuchProcess:
        return None


def _end(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while (alive := [process for process in processes if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _lives(process: psutil.Process) -> bool:
    """Whether it still runs. One that has ended may stay a zombie: nobody but its parent can take it away."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
