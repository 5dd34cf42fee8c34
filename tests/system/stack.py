"""A whole Cairn for tests: both servers and every service as processes of their own, asked from outside.

It is the embedded stack in a folder of the test. What happens is heard by following ``/events/stream`` as any client
does, so that tests wait for events and never for time. Services are killed by their names and come back by
themselves; a server can also be kept away for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import asyncpg
import httpx2
import psutil

from infra.embedded import stack_file
from infra.embedded.stack import Stack
from infra.settings import load
from projections.schema import schema_name
from services.command_line.client import Disconnected, Gateway
from tests.engine import clear

CAIRN = (sys.executable, "-P", "-m", "services.command_line")
API = "/api/v1"
WAIT_SECONDS = 40.0
ENDS = ("TaskCompleted", "TaskFailed", "TaskBlocked", "TaskCancelled")


class Happened(NamedTuple):
    """One event of one decision, as the stream told it."""

    sequence: int
    entity: str
    entity_id: str
    actor: str
    time: datetime
    event: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.event["type"])

    def matches(self, kind: str, of: str, fields: Mapping[str, Any]) -> bool:
        """Whether it is of that type, of the entity ``of`` or one that belongs to it, and has those fields."""
        return (
            self.kind == kind
            and (not of or self.entity_id == of or self.entity_id.startswith(f"{of}-"))
            and all(self.event.get(name) == value for name, value in fields.items())
        )


class Feed:
    """Everything that happens, in order, followed by a thread over any number of disconnections."""

    def __init__(self, url: str, key: str) -> None:
        self.happened: list[Happened] = []
        self.decisions: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._gateway = Gateway(url, key)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def until(
        self, kind: str, of: str = "", *, count: int = 1, seconds: float = WAIT_SECONDS, **fields: Any
    ) -> Happened:
        """The ``count``-th event like this, as soon as it is there."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while len(found := self._like(kind, of, fields)) < count:
                if not self._changed.wait(deadline - time.monotonic()):
                    message = f"{len(found)} of {count} {kind} {of} {fields} within {seconds:g} s; {self.told()}"
                    raise AssertionError(message)
            return found[count - 1]

    def ended(
        self, task: str, kind: str = "TaskCompleted", *, count: int = 1, seconds: float = WAIT_SECONDS
    ) -> Happened:
        """Wait until the task has ended for the ``count``-th time; it must have ended in that way."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while (
                len(found := [item for item in self.happened if item.entity_id == task and item.kind in ENDS]) < count
            ):
                assert self._changed.wait(deadline - time.monotonic()), self.told(task)
        assert found[count - 1].kind == kind, self.told(task)
        return found[count - 1]

    def all(self, kind: str, of: str = "", **fields: Any) -> list[Happened]:
        """What there is of it up to now."""
        with self._changed:
            return self._like(kind, of, fields)

    def kinds(self, of: str) -> list[str]:
        """The types of all that happened to an entity up to now."""
        with self._changed:
            return [item.kind for item in self._of(of)]

    def told(self, of: str = "") -> str:
        """The last things that happened, each in a line."""
        told = [
            f"{item.time:%H:%M:%S.%f} {item.sequence:>6} {item.entity_id} {item.event}"
            for item in self.happened
            if item.entity_id.startswith(of)
        ]
        return "\n".join(["the last events:", *(line[:400] for line in told[-40:])])

    def until_sequence(self, sequence: int, seconds: float = WAIT_SECONDS) -> None:
        """Wait until everything up to there has been heard."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self.decisions or self.decisions[-1]["sequence"] < sequence:
                assert self._changed.wait(deadline - time.monotonic()), f"{sequence} was not heard in time"

    def close(self) -> None:
        self._closed.set()

    def _like(self, kind: str, of: str, fields: Mapping[str, Any]) -> list[Happened]:
        return [item for item in self.happened if item.matches(kind, of, fields)]

    def _of(self, id: str) -> list[Happened]:
        return [item for item in self.happened if item.entity_id == id]

    def _follow(self) -> None:
        last_id = "0"
        while not self._closed.is_set():
            try:
                for event in self._gateway.stream("/events/stream", last_id):
                    last_id = event.id or last_id
                    if event.name == "message":
                        self._take(event.data)
            except Disconnected:
                self._closed.wait(0.05)

    def _take(self, decision: dict[str, Any]) -> None:
        with self._changed:
            self.decisions.append(decision)
            self.happened += [
                Happened(
                    decision["sequence"],
                    decision["entity"],
                    decision["entity_id"],
                    decision["actor"],
                    datetime.fromisoformat(decision["time"]),
                    event,
                )
                for event in decision["events"]
            ]
            self._changed.notify_all()


class SystemStack:
    """A stack in ``directory``, with ``settings`` as its ``cairn.toml``. Use it as a context manager."""

    def __init__(self, directory: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.directory = directory
        self.home = directory / ".cairn"
        given = dict(settings or {})
        worker = {"isolation": "worktree", **given.pop("worker", {})}
        # For long enough to tell of every command what became of it: tests want no 202.
        gateway = {"port": 0, "outcome_timeout_seconds": 30.0, **given.pop("gateway", {})}
        self._settings = {"gateway": gateway, "worker": worker, **given}
        self.agents: dict[str, Mapping[str, Any]] = {}
        self._write_settings()

    def __enter__(self) -> Self:
        settings = load(self.settings_file, {})
        self._stack = Stack(self.home, settings, settings_file=self.settings_file)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            print(self.logs())
        asyncio.run(clear(self.home))
        # The shims of environments that are left end with their folders.
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def settings_file(self) -> Path:
        return self.directory / "cairn.toml"

    def start(self) -> None:
        """Start everything and wait until it is ready; nothing is left where it does not become so."""
        self._stack.start()
        unready = self._stack.supervisor.wait_until_ready(60.0)
        if unready:
            self._stack.stop()
            message = f"{unready} {self.logs()}"
            raise AssertionError(message)
        self._connect()

    def stop(self) -> None:
        """Stop everything in the orderly way."""
        self._disconnect()
        self._stack.stop()

    @contextlib.contextmanager
    def up(self, *options: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """``cairn up`` in a process of its own, ready; ended by SIGTERM."""
        told = self.directory / "up.log"
        with told.open("wb") as log:
            process = subprocess.Popen(
                [*CAIRN, "up", *options],
                cwd=self.directory,
                env=clean_environment() | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: process.poll() is not None or "is ready" in told.read_text(), "it is up")
            assert process.poll() is None, told.read_text()
            self._connect()
            yield process
        finally:
            self._disconnect()
            process.terminate()
            assert process.wait(60) == 0, told.read_text()

    def _connect(self) -> None:
        file = stack_file.read(self.home)
        assert file is not None
        self.url = file.url
        self.key = (self.home / "key").read_text().strip()
        authorization = {"Authorization": f"Bearer {self.key}"}
        self.http = httpx2.Client(base_url=self.url, headers=authorization, timeout=60.0, trust_env=False)
        self.feed = Feed(self.url, self.key)

    def _disconnect(self) -> None:
        if hasattr(self, "feed"):
            self.feed.close()
            self.http.close()

    # ---- asking

    def get(self, path: str, **parameters: Any) -> Any:
        """With ``wait_for`` it is asked for until the read models are that far: the gateway itself waits for 5 s."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            answer = self.http.get(API + path, params=parameters)
            if answer.status_code != 503 or "wait_for" not in parameters or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def items(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """All rows of a list, page by page."""
        rows: list[dict[str, Any]] = []
        following: Any = None
        while True:
            page = self.get(path, **parameters, **({"after": following} if following is not None else {}))
            rows += page["items"]
            following = page["next"]
            if following is None:
                return rows

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, status: int | None = None) -> Any:
        """Send a command; it must be accepted, or answered with ``status``."""
        answer = self.http.post(API + path, json=dict(body or {}))
        expected = (200, 201) if status is None else (status,)
        assert answer.status_code in expected, answer.text
        return answer.json()

    def cairn(self, *arguments: str, exit_code: int = 0, timeout_seconds: float = 60.0) -> str:
        """What ``cairn`` prints; with another exit code than 0, what it says on standard error."""
        done = subprocess.run(
            [*CAIRN, *arguments],
            cwd=self.directory,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        assert done.returncode == exit_code, f"cairn {arguments}: {done.returncode} {done.stdout} {done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stderr if exit_code else done.stdout

    def json(self, *arguments: str, exit_code: int = 0) -> Any:
        """What ``cairn … --json`` prints, decoded."""
        done = self.cairn(*arguments, "--json", exit_code=exit_code)
        return json.loads(done)

    def submit(self, project: str, title: str, *, agent: str, **fields: Any) -> str:
        """Submit a task; answers its id."""
        return str(self.post(f"/projects/{project}/tasks", {"title": title, "agent": agent, **fields})["id"])

    def project(self, name: str, repository: str | Path, **fields: Any) -> None:
        self.post("/projects", {"name": name, "repository": {"url": str(repository)}, **fields})

    def agent(self, name: str, **fields: Any) -> None:
        """Describe one more agent; the running scheduler reads the file again."""
        self.agents[name] = fields
        self._write_settings()

    # ---- doing harm

    def pid(self, name: str) -> int:
        """Of the present process of a service or server."""
        file = stack_file.read(self.home)
        assert file is not None
        return file.processes[name].pid

    def kill(self, name: str) -> int:
        """``kill -9``; it comes back by itself. Answers the pid that it had."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def until_back(self, name: str, killed_pid: int) -> None:
        """Wait until another process of that name is ready."""
        keeper = self._stack.supervisor.keepers[name]
        wait_until(lambda: self.pid(name) != killed_pid and keeper.ready.is_set(), f"{name} is back")

    @contextlib.contextmanager
    def away(self, name: str) -> Iterator[None]:
        """Kill a server and keep it away; at the end it is started again and ready."""
        supervisor = self._stack.supervisor
        keeper = supervisor.keepers[name]
        keeper.ask_to_stop()
        keeper.program.signal(signal.SIGKILL)
        supervisor.stop([name])
        try:
            yield
        finally:
            supervisor.add(keeper.program)
            supervisor.wait_until_ready(30.0)

    @contextlib.contextmanager
    def another(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """A second process of a service, as on the same host."""
        launch = self._stack.supervisor.keepers[name].program.launch()
        with (self.home / "logs" / f"{name}-2.log").open("ab") as log:
            process = subprocess.Popen(
                launch.argv, env={**os.environ, **launch.environment}, cwd=launch.directory, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)

    # ---- looking behind it

    def logs(self) -> str:
        """What the services complained of, and the last thing that each said."""
        told = []
        for path in sorted((self.home / "logs").glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            complaints = [line for line in lines if '"warning"' in line or '"error"' in line]
            told += [f"== {path.name}", *complaints[-10:], *lines[-3:]]
        return "\n".join(told)

    def processes_below(self, directory: Path) -> list[psutil.Process]:
        """The living processes that work somewhere in ``directory``."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(directory):
                    found.append(process)
        return found

    def read_models(self) -> dict[str, Any]:
        """Everything that the read models hold of what there is now."""
        last = self.last_sequence()
        time.sleep(1.0)  # What a task that ended leaves behind is taken away beside the tests.
        while (now := self.last_sequence()) != last:
            last = now
            time.sleep(1.0)
        self.get("/projects", wait_for=last)
        lists = ("projects", "tasks", "environments", "pull-requests", "deliveries")
        found: dict[str, Any] = {path: self.items(f"/{path}") for path in lists}
        tasks = [self.get(f"/tasks/{row['id']}") for row in found["tasks"]]
        runs = [run["id"] for task in tasks for run in task["run_list"]]
        found["task"] = tasks
        found["runs"] = [self.get(f"/runs/{run}") for run in runs]
        found["timelines"] = {run: self.items(f"/runs/{run}/timeline") for run in runs}
        return found

    def last_sequence(self) -> int:
        """Of all that was heard; nothing must go on meanwhile."""
        return int(self.items("/events", limit=1000)[-1]["sequence"])

    def rebuild_read_models(self) -> None:
        """Throw the read models away and wait until the projector has made them again."""
        file = stack_file.read(self.home)
        assert file is not None
        asyncio.run(_drop_read_models(file.postgres_url))
        self.until_back("projector", self.kill("projector"))

    def _write_settings(self) -> None:
        document = {**self._settings, "agents": self.agents}
        fresh = self.settings_file.with_name(".cairn.toml")
        fresh.write_text("".join(_sections("", document)))
        fresh.replace(self.settings_file)


async def _drop_read_models(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"DROP SCHEMA {schema_name('default')} CASCADE")
    finally:
        await connection.close()


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CAIRN_")}


def wait_until(holds: Callable[[], bool], what: str, seconds: float = WAIT_SECONDS) -> None:
    """For what no event tells: files and processes of the host."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def _sections(prefix: str, table: Mapping[str, Any]) -> Iterator[str]:
    """``table`` as TOML; only the agents are tables in a table."""
    for name, value in table.items():
        if prefix == "" and name != "agents":
            yield f"[{name}]\n" + "".join(f"{key} = {_toml(item)}\n" for key, item in value.items())
        elif name == "agents":
            yield from _sections("agents.", value)
        else:
            yield f"[{prefix}{name}]\n" + "".join(f"{key} = {_toml(item)}\n" for key, item in value.items())


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)
