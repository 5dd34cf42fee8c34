"""Composed systems by the ``docker compose`` command line (2.20 or later) and the engine's own interface.

Compose reads the file and carries out what may run, which it gets by standard input; everything else asks the engine.
One command at a time for each system, also over the death of this process: a command holds a lock that its process
inherits, and one that outlived its environment-manager is ended before the next begins.

Limits: variables of ``.env`` reach the file, but no secret of the kind ``environment``, which only the project's own
secrets do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from events.errors import Permanent, Transient
from events.systems import PublishedPort, ServiceState
from infra.docker import labels
from infra.docker.address import may_answer
from infra.subprocesses import ended
from services.environment_manager.adapters.locks import Locks
from services.environment_manager.compose.health import Seen
from services.environment_manager.ports import Ran

if TYPE_CHECKING:
    from infra.docker.engine import Engine

Json = dict[str, Any]
Say = Callable[[str], Awaitable[None]]

CONFIG_SECONDS = 60.0
DOWN_SECONDS = 300.0
LOCK_SECONDS = 30.0
END_SECONDS = 5.0
TAIL_BYTES = 65_536
PIECE_BYTES = 16_384

# Below those that outgoing connections take (Linux: 32768 and above), so that a stopped service finds its own again.
PORTS = range(20_000, 32_000)

# What ``docker compose`` means by its exit codes (https://github.com/docker/compose, pkg/compose: api/errors.go).
EXIT_SLUGS = {14: "compose-file-missing", 15: "compose-file-invalid", 17: "build-failed", 18: "image-unavailable"}

OURS = {labels.ROLE: labels.SERVICE}
ONE_OFF = "com.docker.compose.oneoff"
CLIENT_VARIABLES = (
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "DOCKER_TLS_VERIFY",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PATH",
    "XDG_RUNTIME_DIR",
)
# ``$1`` the seconds, ``$2`` the command. Ended in the container itself, where the image has ``timeout``: an exec does
# not end with the one who asked for it.
EXEC_SCRIPT = 'if command -v timeout >/dev/null 2>&1; then exec timeout -k 3 "$1" sh -c "$2"; else exec sh -c "$2"; fi'
TIMED_OUT_CODE = 124


class DockerCompose:
    """``home`` and ``marks``, labels with their values, name this installation in the engine: systems of others, even
    of the same host, are not touched."""

    def __init__(self, home: Path, *, marks: Mapping[str, str] | None = None, url: str = "") -> None:
        self._home = home
        self._marks = {**OURS, labels.HOME: str(home), **(marks or {})}
        self._url = url
        self._engine: Engine | None = None
        self._locks = Locks()
        self._queues: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.close()

    def project(self, environment_id: str) -> str:
        return labels.compose_project(environment_id, labels.installation(self._marks))

    def _of(self, environment_id: str) -> dict[str, str]:
        return {
            labels.ENVIRONMENT: environment_id,
            labels.ROLE: labels.SERVICE,
            labels.COMPOSE_PROJECT: self.project(environment_id),
        }

    def labels(self) -> dict[str, str]:
        """Those that everything of every system here carries."""
        return self._marks

    # ---- the command line

    async def model(self, workspace: Path, compose_file: str, project: str, variables: Mapping[str, str]) -> Json:
        """What Compose makes of the file. Of this service's own variables it sees only the search path."""
        path = workspace / compose_file
        dotenv = path.parent / ".env"
        environment = {
            **_own(variables),
            **{name: os.environ[name] for name in ("PATH", "DOCKER_CONFIG") if name in os.environ},
            "HOME": str(workspace),
            "COMPOSE_EXPERIMENTAL_GIT_REMOTE": "0",
            "COMPOSE_EXPERIMENTAL_OCI_REMOTE": "0",
        }
        arguments = [
            *("-p", project, "-f", str(path), "--project-directory", str(path.parent), "--profile", "*"),
            *("--env-file", str(dotenv) if dotenv.is_file() else os.devnull, "config", "--format", "json"),
        ]
        code, output, errors = await self._run(project, arguments, environment, CONFIG_SECONDS, directory=workspace)
        if code:
            raise _failed(code, errors)
        try:
            return msgspec.json.decode(output, type=Json)
        except msgspec.DecodeError as error:
            message = f"Compose's model of {compose_file} cannot be read: {error}"
            raise Permanent(message, slug="compose-file-invalid") from error

    async def up(
        self,
        project: str,
        model: Json,
        *,
        workspace: Path,
        variables: Mapping[str, str],
        build: bool,
        seconds: float,
        say: Say,
    ) -> None:
        arguments = [
            *("-p", project, "-f", "-", "--project-directory", str(workspace), "--env-file", os.devnull),
            *("--ansi", "never", "--progress", "plain", "up", "-d", "--remove-orphans"),
            *(("--build",) if build else ()),
        ]
        environment = {**_own(variables), **self._client()}
        code, output, _ = await self._run(
            project, arguments, environment, seconds, stdin=msgspec.json.encode(model), say=say, directory=workspace
        )
        if code:
            raise _failed(code, output)

    async def down(self, environment_id: str, *, volumes: bool, say: Say | None = None) -> None:
        """By what the engine holds of it: no file is needed any more."""
        project = self.project(environment_id)
        await self._leave(environment_id)
        arguments = ["-p", project, "--ansi", "never", "--progress", "plain", "down", "--remove-orphans"]
        arguments += ("-v",) if volumes else ()
        self._home.mkdir(parents=True, exist_ok=True)
        code, output, _ = await self._run(
            project, arguments, self._client(), DOWN_SECONDS, say=say or _unheard, directory=self._home
        )
        if code:
            raise _failed(code, output)
        if volumes:
            await self._remove_rest(environment_id)

    def _client(self) -> dict[str, str]:
        known = {name: os.environ[name] for name in CLIENT_VARIABLES if name in os.environ}
        return {**known, "DOCKER_HOST": self._open().url}

    async def _run(
        self,
        project: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        seconds: float,
        *,
        directory: Path,
        stdin: bytes = b"",
        say: Say | None = None,
    ) -> tuple[int, bytes, bytes]:
        """Exit code, output, errors. With ``say`` both come in one, as they are printed, and only the end is
        answered."""
        async with self._alone(project) as descriptor:
            try:
                process = await asyncio.create_subprocess_exec(
                    *("docker", "compose", *arguments),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE if say is None else asyncio.subprocess.STDOUT,
                    env=dict(environment),
                    cwd=directory,
                    start_new_session=True,
                    pass_fds=(descriptor,),
                )
            except FileNotFoundError as error:
                message = "there is no `docker` on this host: install Docker's command line with its Compose plugin"
                raise Permanent(message, slug="compose-unavailable") from error
            os.pwrite(descriptor, str(process.pid).encode(), 0)
            try:
                async with asyncio.timeout(seconds):
                    if say is None:
                        output, errors = await process.communicate(stdin)
                    else:
                        output, errors = await _said(process, stdin, say), b""
                    return await process.wait(), output, errors
            except TimeoutError as error:
                message = f"`docker compose {_verb(arguments)}` was not done within {seconds:g} s"
                raise Permanent(message, slug="timed-out") from error
            finally:
                await _end(process)

    @contextlib.asynccontextmanager
    async def _alone(self, project: str) -> AsyncIterator[int]:
        directory = self._home / "compose"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{project}.lock"
        async with self._queues[project]:
            await asyncio.to_thread(_end_predecessor, path)
            async with self._locks.hold(path, LOCK_SECONDS) as descriptor:
                os.ftruncate(descriptor, 0)
                try:
                    yield descriptor
                finally:
                    path.unlink(missing_ok=True)

    # ---- the engine

    def _open(self) -> Engine:
        if self._engine is None:
            # Takes 140 ms, which only those who compose should pay.
            from infra.docker.engine import Engine

            self._engine = Engine(self._url)
        return self._engine

    async def containers(self, environment_id: str) -> list[Seen]:
        """Those of the system, by service."""
        engine = self._open()
        from infra.docker.engine import NotThere

        async def look(id: str) -> list[Seen]:
            with contextlib.suppress(NotThere):  # It is gone by now.
                return [_seen(await engine.inspect(id))]
            return []

        short = await engine.containers(self._of(environment_id))
        found = await asyncio.gather(*(look(item["Id"]) for item in short if item["Labels"].get(ONE_OFF) != "True"))
        return sorted(
            (seen for part in found for seen in part), key=lambda seen: (seen.state.service, seen.state.container)
        )

    async def logs(self, container: str, lines: int) -> str:
        return await self._open().logs(container, lines=lines)

    async def restart(self, container: str) -> None:
        await self._open().restart(container)

    async def unpause(self, container: str) -> None:
        await self._open().unpause(container)

    async def execute(self, container: str, command: str, seconds: float) -> Ran:
        """``sh -c command``. One that does not end within its time has no exit code."""
        argv = ["sh", "-c", EXEC_SCRIPT, "sh", f"{seconds:g}", command]
        try:
            ran = await self._open().run(container, argv, seconds=seconds + END_SECONDS)
        except Transient as error:
            if isinstance(error.__cause__, TimeoutError):
                return Ran(exit_code=None, text="")
            raise
        return Ran(exit_code=None if ran.exit_code == TIMED_OUT_CODE else ran.exit_code, text=ran.text)

    async def join(self, environment_id: str) -> bool:
        """Let the sandbox of the environment reach the services by their names, over a network that leads nowhere
        else. False where it has no sandbox, or one that is to reach nothing."""
        engine = self._open()
        from infra.docker.engine import NotThere

        try:
            sandbox = await engine.inspect(labels.sandbox_name(environment_id, labels.installation(self._marks)))
        except NotThere:
            return False
        if sandbox["Config"]["Labels"].get(labels.NETWORK) == "none":
            return False
        services = await engine.containers(self._of(environment_id), running=True)
        if not services:
            return True
        name = self._inner(environment_id)
        try:
            inner = await engine.request("GET", f"networks/{name}")
        except NotThere:
            body = {
                "Name": name,
                "Internal": True,
                "CheckDuplicate": True,
                "Labels": self._of(environment_id),
                # Without it the host itself is reached at the network's gateway.
                "Options": {"com.docker.network.bridge.inhibit_ipv4": "true"},
            }
            inner = {"Id": (await engine.request("POST", "networks/create", body=body))["Id"], "Containers": {}}
        joined = inner.get("Containers") or {}
        for service in services:
            if service["Id"] not in joined:
                alias = service["Labels"][labels.COMPOSE_SERVICE]
                await _connect(engine, inner["Id"], service["Id"], "connect", alias=alias)
        if sandbox["Id"] not in joined:
            await _connect(engine, "none", sandbox["Id"], "disconnect")  # As it was made.
            await _connect(engine, inner["Id"], sandbox["Id"], "connect")
        return True

    def _inner(self, environment_id: str) -> str:
        return f"{self.project(environment_id)}-sandbox"

    async def _leave(self, environment_id: str) -> None:
        """Compose knows nothing of the network that the sandbox and the services share."""
        engine = self._open()
        from infra.docker.engine import NotThere

        with contextlib.suppress(NotThere):
            inner = await engine.request("GET", f"networks/{self._inner(environment_id)}")
            for container in inner.get("Containers") or {}:
                await _connect(engine, inner["Id"], container, "disconnect")
            await engine.request("DELETE", f"networks/{inner['Id']}")

    async def leftover(self) -> set[str]:
        """The environments of this installation that the engine holds anything of; none where there is no engine."""
        if not (self._url or may_answer()):
            return set()
        engine = self._open()
        ours = self.labels()
        found = [*await engine.containers(ours), *await engine.networks(ours)]
        found += [*await _volumes(engine, ours), *await _images(engine, ours)]
        return {id for item in found if (id := (item.get("Labels") or {}).get(labels.ENVIRONMENT))}

    async def _remove_rest(self, environment_id: str) -> None:
        """What ``down`` does not remove without the file: named volumes that no container has, and built images."""
        engine = self._open()
        from infra.docker.engine import Conflicts, NotThere

        mine = {**self.labels(), labels.ENVIRONMENT: environment_id}
        for volume in await _volumes(engine, mine):
            with contextlib.suppress(NotThere):
                await engine.request("DELETE", f"volumes/{volume['Name']}")
        for image in await _images(engine, mine):
            with contextlib.suppress(NotThere, Conflicts):  # Conflicts: another image stands on it.
                await engine.request("DELETE", f"images/{image['Id']}", params={"force": True})

    # ---- ports of this host

    def free_port(self) -> int:
        """One of 127.0.0.1 that nobody has at this moment."""
        for port in random.sample(PORTS, len(PORTS)):
            if self.is_free(port):
                return port
        message = f"no port from {PORTS.start} to {PORTS.stop - 1} is free"
        raise Transient(message)

    def is_free(self, port: int) -> bool:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                return False
        return True


def _own(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that mean nothing to Docker's command line itself."""
    return {name: value for name, value in variables.items() if not name.startswith(("DOCKER_", "COMPOSE_", "BUILD"))}


async def _unheard(text: str) -> None:
    pass


def _verb(arguments: Sequence[str]) -> str:
    return next(item for item in arguments if item in ("config", "up", "down"))


def _failed(code: int, output: bytes) -> Permanent:
    """The last line of what Compose printed is the useful one."""
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    said = lines[-1].strip() if lines else f"docker compose ended with exit code {code}"
    return Permanent(said, slug=EXIT_SLUGS.get(code, "compose-failed"))


async def _said(process: asyncio.subprocess.Process, stdin: bytes, say: Say) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(stdin)
        await process.stdin.drain()
    process.stdin.close()
    tail = b""
    while piece := await process.stdout.read(PIECE_BYTES):
        tail = (tail + piece)[-TAIL_BYTES:]
        await say(piece.decode(errors="replace"))
    return tail


async def _end(process: asyncio.subprocess.Process) -> None:
    """Nothing of it is left, whatever it started."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError, TimeoutError):
        os.killpg(process.pid, signal.SIGTERM)
        async with asyncio.timeout(END_SECONDS):
            await ended(process)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await ended(process)


def _end_predecessor(path: Path) -> None:
    """A command that outlived the process that began it still holds the lock, and its number stands in it."""
    import fcntl

    with contextlib.suppress(FileNotFoundError), path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number = file.read().strip()
            if number.isdigit():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(number), signal.SIGKILL)


def _seen(inspected: Json) -> Seen:
    state, config = inspected["State"], inspected["Config"]
    health = state.get("Health") or {}
    checks = health.get("Log") or [{}]
    ended = state["Status"] in ("exited", "dead", "restarting")
    return Seen(
        id=inspected["Id"],
        started_at=state.get("StartedAt", ""),
        said=(state.get("Error") or (checks[-1] or {}).get("Output") or "").strip(),
        state=ServiceState(
            service=config["Labels"].get(labels.COMPOSE_SERVICE, ""),
            container=inspected["Name"].lstrip("/"),
            image=config["Image"],
            status=state["Status"],
            health="" if health.get("Status") in (None, "none") else health["Status"],
            exit_code=state["ExitCode"] if ended else None,
            restarts=inspected.get("RestartCount", 0),
            ports=_ports(inspected),
        ),
    )


def _ports(inspected: Json) -> tuple[PublishedPort, ...]:
    """As they are now, or as they will be when it runs."""
    now = {key: value for key, value in (inspected["NetworkSettings"].get("Ports") or {}).items() if value}
    bindings = now or inspected["HostConfig"].get("PortBindings") or {}
    return tuple(
        PublishedPort(
            address=binding["HostIp"],
            port=int(binding["HostPort"]),
            target=int(key.partition("/")[0]),
            protocol=key.partition("/")[2],
        )
        for key, found in sorted(bindings.items())
        for binding in found or ()
        if binding["HostPort"]
    )


async def _connect(engine: Engine, network: str, container: str, what: str, *, alias: str = "") -> None:
    """``what`` is connect, under another name too, or disconnect. What is so already stays so."""
    from infra.docker.engine import Conflicts, NotThere

    body: Json = {"Container": container}
    if what == "disconnect":
        body["Force"] = True
    if alias:
        body["EndpointConfig"] = {"Aliases": [alias]}
    with contextlib.suppress(NotThere, Conflicts):
        try:
            await engine.request("POST", f"networks/{network}/{what}", body=body)
        except Transient:  # What is not connected is a failure of its own to the engine.
            networks = (await engine.inspect(container))["NetworkSettings"]["Networks"]
            if what == "connect" or any(network in (name, of["NetworkID"]) for name, of in networks.items()):
                raise


async def _volumes(engine: Engine, wanted: Mapping[str, str]) -> list[Json]:
    filters = {"label": [f"{name}={value}" for name, value in wanted.items()]}
    answer = await engine.request("GET", "volumes", params={"filters": filters})
    return list(answer["Volumes"] or ())


async def _images(engine: Engine, wanted: Mapping[str, str]) -> list[Json]:
    filters = {"label": [f"{name}={value}" for name, value in wanted.items()]}
    return list(await engine.request("GET", "images/json", params={"filters": filters}))
