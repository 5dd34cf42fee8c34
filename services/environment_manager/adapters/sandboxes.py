"""Containers that environments live in: one for each, whose first process is the shim.

::

    <home>/environments/<id>/sandbox.json   what its container is made of; with it the environment has one
    <home>/environments/<id>                mounted as /environment, with the workspace and the shim's files
    <home>/repositories/<hash>.git          read-only at its own path: the workspace's git borrows its objects
    <home>/runtime/<digest>                 read-only as /cairn: what the shim runs by (``adapters.runtime``)
    <home>/warm/<name>                      a folder whose container runs already, for an environment to come

The engine only makes and removes containers. What happens inside goes over the shim's socket and files, as it does in
a working tree, so that a restarted environment-manager finds everything as it was. A container that is gone takes its
processes with it and nothing else: another one goes on with the same folder.

**Warm containers.** A folder's mount follows its inode. So a container is started on an empty folder in advance, which
then takes the workspace's contents and the environment's name.

**Users.** Processes run as this service's user, or, where that is root, as 10001, who then owns the folder.

**Network.** A container has no network of its own. ``outward`` is a proxy on a Unix socket (``egress``); composed
services are reached over the networks that ``adapters.compose`` connects it to.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from events.errors import Permanent, Transient
from events.sandboxes import Sandbox
from infra.docker import labels
from infra.docker.address import may_answer
from infra.settings import Worker
from services.environment_manager import shim
from services.environment_manager.adapters import images, runtime
from services.environment_manager.tools.variables import SERVICES

if TYPE_CHECKING:
    from infra.docker.engine import Engine

logger = structlog.get_logger()

INSIDE = Path("/environment")
# Of this host, and none of a container's.
HOST_VARIABLES = ("PATH",)
RECORD = "sandbox.json"
USER = 10_001
START_SECONDS = 20.0
WARM_SECONDS = 1800
TEMPORARY_BYTES = 1_073_741_824
OPEN_FILES = 16_384
PROXY = f"http://127.0.0.1:{shim.RELAY_PORT}"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """All that makes one container different from another, but for the environment that it serves."""

    image: str
    mirror: str
    network: str
    allowed_hosts: tuple[str, ...]
    cpus: float
    memory_mb: int
    pids: int

    @property
    def key(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]


class ContainerSandboxes:
    """The port ``Sandboxes``, and what ``ShimProcesses`` asks of containers. ``directory(environment_id)`` is the
    environment's folder, ``mirror(repository_url)`` the bare repository that its workspace borrows from. ``started``
    is called when an environment's container was started anew."""

    def __init__(
        self,
        home: Path,
        worker: Worker,
        *,
        directory: Callable[[str], Path],
        mirror: Callable[[str], Path],
        marks: dict[str, str],
    ) -> None:
        self._home = home.absolute()
        self._worker = worker
        self._directory = directory
        self._mirror = mirror
        self._marks = {labels.ROLE: labels.SANDBOX, labels.HOME: str(self._home), **marks}
        self._warm = self._home / "warm"
        self._refilling: dict[str, asyncio.Task[None]] = {}
        self._engine: Engine | None = None
        self.started: Callable[[str], Awaitable[object]] = _nothing
        self.user = os.getuid() or USER
        self.group = os.getgid() or USER

    def _open(self) -> Engine:
        from infra.docker.engine import Engine  # a seventh of a second, which a worker without an engine does not pay

        self._engine = self._engine or Engine()
        return self._engine

    async def settled(self) -> None:
        """Until as many are warm as are to be."""
        await asyncio.gather(*self._refilling.values())

    async def close(self) -> None:
        for task in self._refilling.values():
            task.cancel()
        await asyncio.gather(*self._refilling.values(), return_exceptions=True)
        await self.begin()
        if self._engine is not None:
            await self._engine.close()

    # ---- the port

    async def isolation(self, asked: str) -> str:
        wanted = asked or self._worker.isolation
        if wanted == "worktree":
            return wanted
        if wanted == "auto" and not may_answer():
            return "worktree"
        try:
            await self._open().version()
        except Transient as error:
            if wanted == "auto":
                return "worktree"
            message = f'{error} Or choose isolation = "worktree" for the project.'
            raise Permanent(message, slug="engine-missing") from error
        return "container"

    async def contained(self) -> bool:
        """Whether work that leaves it open is done in containers."""
        try:
            return await self.isolation("") == "container"
        except Permanent:
            return True

    async def furnish(self, environment_id: str, sandbox: Sandbox, repository_url: str) -> str:
        directory = self._directory(environment_id)
        known = self.kind(environment_id)
        if known is not None:
            await asyncio.to_thread(self.give, directory)
            return known.image
        image = await images.image_of(self._open(), sandbox.image, directory / "workspace", self._worker.image)
        mirror = self._mirror(repository_url)
        kind = Kind(
            image=image,
            mirror=str(mirror),
            network=sandbox.network,
            allowed_hosts=sandbox.allowed_hosts if sandbox.network == "outward" else (),
            cpus=_least(sandbox.cpus, self._worker.cpus),
            memory_mb=int(_least(sandbox.memory_mb, self._worker.memory_mb)),
            pids=int(_least(sandbox.pids, self._worker.pids)),
        )
        if not await self._take_warm(environment_id, kind):
            _write(directory / RECORD, kind)
        if os.getuid() == 0:
            mirror.chmod(0o755)  # Its parent is closed to others; its container's user has to get in.
        await asyncio.to_thread(self.give, directory)
        self._refill(kind)
        return image

    async def sweep(self, living: Callable[[], Awaitable[Collection[str]]]) -> list[str]:
        if not (self._home / "runtime").is_dir():
            return []  # No container was ever made here.
        ours = {labels.ROLE: labels.SANDBOX, labels.HOME: str(self._home)}
        found = await self._open().containers(ours)
        # In this order: one that comes to be meanwhile is not among those that were found.
        wanted = {f"/{self.name(id)}" for id in await living()}
        removed = []
        for container in found:
            name = container["Names"][0]
            expires = int(container["Labels"].get(labels.EXPIRES) or 0)
            if name in wanted or (expires and time.time() < expires):
                continue
            await self._open().remove(container["Id"])
            shutil.rmtree(self._warm / container["Labels"].get(labels.WARM, "-"), ignore_errors=True)
            removed.append(name.lstrip("/"))
        return removed

    def name(self, environment_id: str) -> str:
        """Of the environment's container."""
        return labels.sandbox_name(environment_id, labels.installation(self._marks))

    # ---- for the processes

    def kind(self, environment_id: str) -> Kind | None:
        """What the environment's container is made of; None where it lives in a working tree."""
        return _read(self._directory(environment_id) / RECORD)

    async def start(self, environment_id: str) -> None:
        """Start the environment's container anew, and return when its shim serves."""
        directory = self._directory(environment_id)
        kind = self.kind(environment_id)
        assert kind is not None
        name = self.name(environment_id)
        await self._open().remove(name)
        await asyncio.to_thread(self.give, directory)
        await self._run(name, directory, kind, {labels.ENVIRONMENT: environment_id})
        await self.started(environment_id)

    async def remove(self, environment_id: str) -> None:
        await self._open().remove(self.name(environment_id))

    inside = INSIDE

    def holds(self, environment_id: str) -> bool:
        return (self._directory(environment_id) / RECORD).exists()

    def variables(self, environment_id: str, own: Mapping[str, str]) -> dict[str, str]:
        """The variables of a process: ``own`` without those of this host; the image's are below them."""
        kind = self.kind(environment_id)
        outward = _proxy_variables(own) if kind is not None and kind.network == "outward" else {}
        given = {name: value for name, value in own.items() if name not in HOST_VARIABLES}
        return {**outward, **given, shim.ENVIRONMENT_VARIABLE: environment_id}

    async def lead_outward(self, environment_id: str) -> None:
        """See to it that the environment's proxy serves."""
        kind = self.kind(environment_id)
        if kind is not None:
            await self._lead_outward(self._directory(environment_id), kind)

    async def _lead_outward(self, directory: Path, kind: Kind) -> None:
        if kind.network != "outward" or await _answers(directory, shim.EGRESS_SOCKET):
            return
        command = (sys.executable, "-m", "services.environment_manager.egress", str(directory), *kind.allowed_hosts)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, cwd="/", env=_environment()
        )
        if await process.wait():
            message = f"the proxy of {directory.name} could not be started"
            raise Transient(message)

    def give_workspace(self, environment_id: str) -> None:
        if self.holds(environment_id):
            self.give(self._directory(environment_id) / "workspace")

    def give_file(self, workspace: Path, name: str) -> None:
        """A file that was written into a workspace, and the folders made for it."""
        if os.getuid() != 0 or not (workspace.parent / RECORD).exists():
            return
        path = Path(os.path.realpath(workspace / name))
        while path.is_relative_to(workspace) and path != workspace:
            os.lchown(path, self.user, self.group)
            path = path.parent

    def admit(self, environment_id: str) -> None:
        """What lies beside the workspace for a process to read."""
        for name in ("home", "arguments", "prompt.txt"):
            self.give(self._directory(environment_id) / name)

    def give(self, path: Path) -> None:
        """What the environment-manager made belongs to the container's user, where that is not the same."""
        if os.getuid() != 0:
            return
        for folder, folders, files in [("", [], [str(path)]), *os.walk(path)]:
            for name in (*folders, *files):
                with contextlib.suppress(FileNotFoundError):
                    item = Path(folder, name)
                    if item.lstat().st_uid != self.user:
                        os.lchown(item, self.user, self.group)

    # ---- inside

    async def _run(self, name: str, directory: Path, kind: Kind, marks: dict[str, str]) -> None:
        place = await asyncio.to_thread(runtime.provide, self._home)
        await self._lead_outward(directory, kind)
        engine = self._open()
        container = await engine.create(self._configuration(directory, kind, place, marks), name=name)
        try:
            await engine.start(container)
            await self._until_it_serves(container, directory)
        except (Permanent, Transient):
            await engine.remove(container)
            raise

    async def _until_it_serves(self, container: str, directory: Path) -> None:
        engine = self._open()
        give_up = time.monotonic() + START_SECONDS
        while not await _answers(directory, shim.SOCKET):
            state = (await engine.inspect(container))["State"]
            if not state["Running"] or time.monotonic() >= give_up:
                last = (await engine.logs(container, lines=5)).strip() or state.get("Error") or "nothing"
                message = f"the shim of {directory.name} does not answer in its container, which said: {last}"
                raise Transient(message)
            await asyncio.sleep(0.005)

    def _configuration(self, directory: Path, kind: Kind, place: Path, marks: dict[str, str]) -> dict[str, Any]:
        """The engine's ``ContainerCreate`` document."""
        memory = kind.memory_mb * 1024 * 1024
        outward = [f"{shim.RELAY_VARIABLE}=1"] if kind.network == "outward" else []
        return {
            "Image": kind.image,
            "Entrypoint": runtime.command(str(INSIDE)),
            "Cmd": [],
            "User": f"{self.user}:{self.group}",
            "WorkingDir": str(INSIDE),
            "Env": outward,
            "Labels": {**self._marks, labels.NETWORK: kind.network, **marks},
            "Healthcheck": {"Test": ["NONE"]},
            "HostConfig": {
                "Binds": [
                    f"{directory}:{INSIDE}",
                    f"{kind.mirror}:{kind.mirror}:ro",
                    f"{place}:{runtime.INSIDE}:ro",
                ],
                "Tmpfs": {"/tmp": f"rw,exec,nosuid,nodev,mode=1777,size={min(TEMPORARY_BYTES, memory // 2)}"},
                "ReadonlyRootfs": True,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "NetworkMode": "none",
                "Memory": memory,
                "MemorySwap": memory,
                "NanoCpus": int(kind.cpus * 1e9),
                "PidsLimit": kind.pids,
                "Ulimits": [{"Name": "nofile", "Soft": OPEN_FILES, "Hard": OPEN_FILES}],
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
            },
        }

    # ---- warm ones

    async def _take_warm(self, environment_id: str, kind: Kind) -> bool:
        """Give the environment a folder whose container runs already; False where there is none."""
        directory = self._directory(environment_id)
        for folder in sorted(self._warm.glob(f"{kind.key}-*")):
            if not await _answers(folder, shim.SOCKET):
                continue
            try:
                await self._open().rename(f"cairn-warm-{folder.name}", self.name(environment_id))
            except (Permanent, Transient):
                continue  # Another environment took it, or it is gone.
            await asyncio.to_thread(_move_into, directory, folder)
            _write(directory / RECORD, kind)
            return True
        return False

    def _refill(self, kind: Kind) -> None:
        running = self._refilling.get(kind.key)
        if self._worker.warm_containers > 0 and (running is None or running.done()):
            self._refilling[kind.key] = asyncio.create_task(self._warm_up(kind))

    async def _warm_up(self, kind: Kind) -> None:
        try:
            while len(list(self._warm.glob(f"{kind.key}-*"))) < self._worker.warm_containers:
                name = f"{kind.key}-{uuid.uuid4().hex[:12]}"
                folder = self._warm / name
                folder.mkdir(parents=True, mode=0o700)
                await asyncio.to_thread(self.give, folder)
                expires = str(int(time.time()) + WARM_SECONDS)
                await self._run(f"cairn-warm-{name}", folder, kind, {labels.EXPIRES: expires, labels.WARM: name})
        except (Permanent, Transient, OSError) as error:
            logger.warning("no container is kept warm", image=kind.image, error=str(error))

    async def begin(self) -> None:
        """Remove the containers that are kept warm, at the end and after one that had none; where an engine answers."""
        if not self._warm.is_dir():
            return
        try:
            await self._clear_warm()
        except Transient as error:
            logger.warning("containers are left", error=str(error))

    async def _clear_warm(self) -> None:
        for container in await self._open().containers([labels.ROLE, labels.WARM]):
            if container["Labels"].get(labels.HOME) == str(self._home) and container["Names"][0].startswith(
                "/cairn-warm-"
            ):
                await self._open().remove(container["Id"])
        await asyncio.to_thread(shutil.rmtree, self._warm, ignore_errors=True)


async def _nothing(environment_id: str) -> None:
    pass


def _least(asked: float, most: float) -> float:
    return min(asked, most) if asked and most else asked or most


def _move_into(directory: Path, folder: Path) -> None:
    """Everything of ``directory`` goes into ``folder``, which then takes its name."""
    for item in directory.iterdir():
        item.rename(folder / item.name)
    directory.rmdir()
    folder.rename(directory)


def _read(path: Path) -> Kind | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _write(path: Path, kind: Kind) -> None:
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(msgspec.json.encode(kind))
    temporary.rename(path)


async def _answers(directory: Path, name: str) -> bool:
    """Whether somebody accepts connections at the socket."""
    try:
        handle = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        _, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{handle}/{name}")
    except OSError:
        return False
    finally:
        os.close(handle)
    writer.close()
    return True


def _environment() -> dict[str, str]:
    """For a process of Cairn's own code, without a secret of this one's."""
    root = str(Path(shim.__file__).parents[3])
    return {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": root}


def _proxy_variables(own: Mapping[str, str]) -> dict[str, str]:
    """What programs find the proxy by. Composed services are not reached through it, but by their names."""
    direct = ",".join(filter(None, ("localhost", "127.0.0.1", own.get(SERVICES, ""))))
    return {
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), PROXY),
        **dict.fromkeys(("no_proxy", "NO_PROXY"), direct),
    }
