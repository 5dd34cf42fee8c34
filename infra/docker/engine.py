"""A Docker engine by its own HTTP interface (https://docs.docker.com/reference/api/engine/), over aiodocker.

Objects go in and come out as the engine's own documents, so that its reference is ours. Every method raises
``NotThere`` (404), ``Conflicts`` (409: the name is taken, the container is not in a state for this), ``Permanent``
(another refusal) or ``Transient`` (no engine answers, or it failed inside).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiodocker
import aiohttp
import msgspec

from events.errors import Permanent, Transient
from infra.docker.address import address

Json = dict[str, Any]

ARCHIVE = "application/x-tar"

ANSWER_SECONDS = 30.0
RESTART_SECONDS = 300.0


class NotThere(Permanent):
    """The engine knows no such container, network, volume or image."""


class Conflicts(Permanent):
    """The name is in use, or the container is not in a state for this."""


class Ran(msgspec.Struct, frozen=True):
    """What a command in a container printed, both streams as they came, and how it ended."""

    exit_code: int
    output: bytes

    @property
    def text(self) -> str:
        return self.output.decode(errors="replace")


class Engine:
    """One client. ``url`` is ``unix://PATH`` or ``tcp://HOST:PORT``; the connection is made with the first request."""

    def __init__(self, url: str = "") -> None:
        self.url = url or address()
        self._client: aiodocker.Docker | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def __aenter__(self) -> Engine:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ---- anything

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Json | bytes | None = None,
        seconds: float | None = ANSWER_SECONDS,
    ) -> Any:
        """What the engine answers: a document, or text, or None. ``params`` that are no text are sent as JSON; a
        ``body`` of bytes is a tar archive."""
        async with self._asked(method, path, params, body, seconds) as response:
            if response.status == 204:
                return None
            if response.content_type == "application/json":
                return await response.json()
            return await response.text()

    async def stream(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Json | bytes | None = None
    ) -> AsyncIterator[bytes]:
        """The raw answer in pieces, as it comes, without an end of its own."""
        async with self._asked(method, path, params, body, None) as response:
            async for piece in response.content.iter_any():
                yield piece

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Json | bytes | None, seconds: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            if self._client is None:
                self._client = aiodocker.Docker(url=self.url)
            async with self._client._query(  # its own methods hide fields of the documents
                path,
                method,
                params={key: _parameter(value) for key, value in (params or {}).items() if value is not None},
                data=json.dumps(body) if isinstance(body, dict) else body,
                headers={"Content-Type": ARCHIVE} if isinstance(body, bytes) else None,
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as response:
                yield response
        except aiodocker.DockerError as error:
            raise _translated(error, self.url) from error
        except TimeoutError as error:
            within = "in time" if seconds is None else f"within {seconds:g} s"
            message = f"the Docker engine at {self.url} did not answer {method} {path} {within}"
            raise Transient(message) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            message = f"no Docker engine answers at {self.url}: {error}. Start it, or set DOCKER_HOST."
            raise Transient(message) from error

    async def version(self) -> Json:
        """``Version``, ``ApiVersion``, ``KernelVersion`` and others of the engine."""
        return dict(await self.request("GET", "version", seconds=5.0))

    async def info(self) -> Json:
        return dict(await self.request("GET", "info"))

    # ---- containers

    async def containers(self, labels: Mapping[str, str] | Sequence[str], *, running: bool = False) -> list[Json]:
        """Those that carry all ``labels`` (names, or names with values), in the engine's short form; with ``running``
        only those that run."""
        wanted = [f"{name}={value}" for name, value in labels.items()] if isinstance(labels, Mapping) else list(labels)
        return list(
            await self.request("GET", "containers/json", params={"all": not running, "filters": {"label": wanted}})
        )

    async def inspect(self, container: str) -> Json:
        return dict(await self.request("GET", f"containers/{container}/json"))

    async def create(self, configuration: Json, *, name: str = "") -> str:
        """Make a container of the engine's ``ContainerCreate`` document without starting it; answers its id."""
        params = {"name": name} if name else None
        return str((await self.request("POST", "containers/create", params=params, body=configuration))["Id"])

    async def start(self, container: str) -> None:
        """One that runs already stays as it is."""
        await self.request("POST", f"containers/{container}/start")

    async def stop(self, container: str, *, grace_seconds: int) -> None:
        """SIGTERM, then after the grace SIGKILL. One that stands still already stays so."""
        seconds = grace_seconds + ANSWER_SECONDS
        await self.request("POST", f"containers/{container}/stop", params={"t": grace_seconds}, seconds=seconds)

    async def restart(self, container: str) -> None:
        """It is given the time to end that it was made with (``StopTimeout``), as far as we wait."""
        await self.request("POST", f"containers/{container}/restart", seconds=RESTART_SECONDS)

    async def kill(self, container: str, *, signal: str = "SIGKILL") -> None:
        """Raises ``Conflicts`` where it does not run."""
        await self.request("POST", f"containers/{container}/kill", params={"signal": signal})

    async def pause(self, container: str) -> None:
        await self.request("POST", f"containers/{container}/pause")

    async def unpause(self, container: str) -> None:
        """One that is not paused stays as it is."""
        try:
            await self.request("POST", f"containers/{container}/unpause")
        except (Conflicts, Transient):  # That is a failure of its own to the engine.
            if (await self.inspect(container))["State"]["Paused"]:
                raise

    async def update(self, container: str, limits: Json) -> None:
        """Change limits of a container: fields of the engine's ``Resources`` document."""
        await self.request("POST", f"containers/{container}/update", body=limits)

    async def rename(self, container: str, name: str) -> None:
        await self.request("POST", f"containers/{container}/rename", params={"name": name})

    async def wait(self, container: str, *, seconds: float | None = None) -> int:
        """The exit code, when it has ended."""
        return int((await self.request("POST", f"containers/{container}/wait", seconds=seconds))["StatusCode"])

    async def remove(self, container: str) -> None:
        """End it, and remove it with its anonymous volumes. One that is gone, or that somebody removes just now, is no
        error."""
        try:
            await self.request("DELETE", f"containers/{container}", params={"force": True, "v": True})
        except NotThere:
            pass
        except Conflicts as error:
            if "already in progress" not in str(error):
                raise

    async def logs(self, container: str, *, lines: int = 100) -> str:
        """The last lines that it printed, both streams in order."""
        params = {"stdout": True, "stderr": True, "tail": str(lines)}
        parts = [part async for part in self.stream("GET", f"containers/{container}/logs", params=params)]
        data = b"".join(parts)
        return (data if _has_terminal(await self.inspect(container)) else _frames(data)).decode(errors="replace")

    async def run(
        self,
        container: str,
        argv: Sequence[str],
        *,
        user: str = "",
        variables: Mapping[str, str] | None = None,
        directory: str = "",
        seconds: float = ANSWER_SECONDS,
    ) -> Ran:
        """Execute a command in a running container and wait for its end. Raises ``Transient`` when ``seconds`` are
        over; the command itself goes on then, as the engine has no way to end it."""
        body: Json = {
            "Cmd": list(argv),
            "AttachStdout": True,
            "AttachStderr": True,
            "User": user,
            "Env": [f"{name}={value}" for name, value in (variables or {}).items()],
        }
        if directory:
            body["WorkingDir"] = directory
        created = await self.request("POST", f"containers/{container}/exec", body=body)
        begin = self.stream("POST", f"exec/{created['Id']}/start", body={"Detach": False, "Tty": False})
        try:
            async with asyncio.timeout(seconds):
                data = b"".join([piece async for piece in begin])
        except TimeoutError as error:
            message = f"{argv[0]} in container {container[:12]} did not end within {seconds:g} s"
            raise Transient(message) from error
        ended = await self.request("GET", f"exec/{created['Id']}/json")
        return Ran(int(ended["ExitCode"] if ended["ExitCode"] is not None else -1), _frames(data))

    # ---- networks, images, what happens

    async def networks(self, labels: Mapping[str, str]) -> list[Json]:
        wanted = [f"{name}={value}" for name, value in labels.items()]
        return list(await self.request("GET", "networks", params={"filters": {"label": wanted}}))

    async def has_image(self, image: str) -> bool:
        try:
            await self.request("GET", f"images/{image}/json")
        except NotThere:
            return False
        return True

    async def build(
        self,
        context: bytes,
        *,
        tag: str,
        dockerfile: str = "Dockerfile",
        arguments: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> str:
        """Build an image from a tar archive; answers the engine's report, a JSON document a line. One with an ``error``
        says that, and why, the build failed."""
        params = {
            "t": tag,
            "dockerfile": dockerfile,
            "buildargs": dict(arguments or {}),
            "labels": dict(labels or {}),
            "rm": True,
            "forcerm": True,
        }
        try:
            async with asyncio.timeout(seconds):
                pieces = [piece async for piece in self.stream("POST", "build", params=params, body=context)]
        except TimeoutError as error:
            message = f"the Docker engine at {self.url} did not build {tag} within {seconds:g} s"
            raise Transient(message) from error
        return b"".join(pieces).decode(errors="replace")

    async def events(self, filters: Mapping[str, Sequence[str]], *, since: float = 0.0) -> AsyncIterator[Json]:
        """What happens in the engine, each as its ``EventMessage``, until the connection breaks. With ``since``, in
        seconds since 1970, also what happened from then on."""
        rest = b""
        params = {
            "filters": {key: list(values) for key, values in filters.items()},
            "since": f"{since:f}" if since else None,
        }
        async for piece in self.stream("GET", "events", params=params):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.strip():
                    yield json.loads(line)


def _parameter(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _translated(error: aiodocker.DockerError, url: str) -> Permanent | Transient:
    text = str(error.message).strip()
    if error.status == 404:
        return NotThere(text, slug="container-missing")
    if error.status == 409:
        return Conflicts(text, slug="container-conflict")
    if error.status >= 900:
        return Transient(f"no Docker engine answers at {url}. Start it, or set DOCKER_HOST.")
    if error.status >= 500:
        return Transient(f"the Docker engine at {url} failed: {text}")
    return Permanent(f"the Docker engine refused: {text}", slug="engine-refused")


def _has_terminal(inspected: Json) -> bool:
    return bool(inspected["Config"]["Tty"])


def _frames(data: bytes) -> bytes:
    """The content of the engine's multiplexed stream: eight bytes of header, of which the last four are the length."""
    parts, at = [], 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "big")
        parts.append(data[at + 8 : at + 8 + size])
        at += 8 + size
    return b"".join(parts)
