"""Probes and actions of experiments in a Docker engine: what is published, how healthy it is, start and restart.

``${service:port}`` stands for the address on this host where that port of the first running container of the service
is published. A request is made with a connection of its own, so that every sample is what a new caller would see;
redirects are not followed, and proxies of this host's environment are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Any

import httpx2

from events.errors import Permanent
from infra.docker.engine import Engine, Json
from services.chaos.document import Command, Compose, ContainerState, Http, ServiceHealthy, Tcp
from services.chaos.targets import belongs, wanted_labels
from services.chaos.tolerances import Answer

BODY_CHARACTERS = 20_000
ENDING_SECONDS = 2.0
_PUBLISHED = re.compile(r"\$\{([A-Za-z0-9][A-Za-z0-9_.-]*):(\d{1,5})\}")
SERVICE = "com.docker.compose.service"
NUMBER = "com.docker.compose.container-number"


class DockerWorld:
    """``home`` is that of the installation whose environments are meant."""

    def __init__(self, engine: Engine, home: str = "") -> None:
        self._engine = engine
        self._home = home

    async def ask(self, target: str, provider: Http | Tcp | ServiceHealthy | ContainerState | Command) -> Answer:
        match provider:
            case Http():
                return await self._http(await self._addressed(target, provider.url), provider)
            case Tcp():
                return await self._tcp(await self._addressed(target, provider.address), provider.timeout)
            case ServiceHealthy():
                return await self._healthy(target, provider.service)
            case ContainerState():
                found = await self._containers(target, provider.service)
                states = dict.fromkeys(str(each["State"]["Status"]) for each in found)
                return Answer(value=",".join(states))
            case Command():
                return await self._run(target, provider)

    async def perform(self, target: str, action: Compose) -> str:
        found = await self._containers(target, action.service)
        for each in found:
            if each["State"]["Paused"]:
                await self._engine.unpause(each["Id"])
            if action.action == "restart":
                await self._engine.restart(each["Id"])
            else:
                await self._engine.start(each["Id"])
        return f"{action.action}: {', '.join(_shown(each) for each in found)}"

    async def _http(self, url: str, provider: Http) -> Answer:
        try:
            async with httpx2.AsyncClient(timeout=provider.timeout, trust_env=False) as client:
                response = await client.request(
                    provider.method, url, headers=provider.headers, content=provider.body or None
                )
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            return Answer(value=0, text=f"{type(error).__name__}: {error}".removesuffix(": "), failed=True)
        return Answer(
            value=response.status_code, text=response.text[:BODY_CHARACTERS], failed=response.status_code >= 400
        )

    async def _tcp(self, address: str, timeout_seconds: float) -> Answer:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            message = f"{address!r} is no address: host:port or ${{service:port}} is needed"
            raise Permanent(message, slug="invalid-address")
        try:
            async with asyncio.timeout(timeout_seconds):
                _, writer = await asyncio.open_connection(host, int(port))
        except (OSError, TimeoutError) as error:
            return Answer(value=False, text=str(error) or "no answer", failed=True)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return Answer(value=True)

    async def _run(self, target: str, command: Command) -> Answer:
        found = await self._containers(target, command.service)
        running = next((each["Id"] for each in found if each["State"]["Status"] == "running"), None)
        if running is None:
            return Answer(value="", text=f"{command.service} does not run", failed=True)
        # The engine has no way to end what it began; timeout does it inside.
        argv = ("timeout", "-k", "1", f"{command.timeout:g}", "sh", "-c", command.command)
        ran = await self._engine.run(running, argv, seconds=command.timeout + ENDING_SECONDS)
        return Answer(value=ran.exit_code, text=ran.text[-BODY_CHARACTERS:], failed=ran.exit_code != 0)

    async def _healthy(self, target: str, service: str) -> Answer:
        found = await self._containers(target, service)
        ill = [f"{_shown(each)} is {state}" for each in found if (state := _state(each)) not in ("running", "healthy")]
        return Answer(value=not ill, text="; ".join(ill), failed=bool(ill))

    async def _addressed(self, target: str, text: str) -> str:
        """``text`` with every ``${service:port}`` replaced."""
        for match in dict.fromkeys(_PUBLISHED.finditer(text)):
            text = text.replace(match[0], await self._published(target, match[1], match[2]))
        return text

    async def _published(self, target: str, service: str, port: str) -> str:
        found = await self._containers(target, service)
        published: list[str] = []
        for each in found:
            for inside, places in (each["NetworkSettings"]["Ports"] or {}).items():
                if places and inside == f"{port}/tcp":
                    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
                    address = places[0]["HostIp"]
                    return f"{host.get(address, address)}:{places[0]['HostPort']}"
                published += [inside] if places else []
        running = any(each["State"]["Running"] for each in found)
        has = f"it publishes {', '.join(published)}" if published else "it publishes none"
        message = f"{service} has no published port {port}: {has if running else 'it does not run'}"
        raise Permanent(message, slug="port-not-published")

    async def _containers(self, target: str, service: str) -> list[Json]:
        """Those of a service, or the one of that name, as the engine shows them now. Raises ``Permanent``."""
        listed = [
            each
            for each in await self._engine.containers(wanted_labels(target))
            if belongs(each["Labels"] or {}, target, self._home)
        ]
        of_service = [each["Id"] for each in listed if each["Labels"].get(SERVICE) == service]
        if not of_service:
            names = (service, f"/{service}")
            of_service = [
                each["Id"]
                for each in listed
                if service == _numbered(each["Labels"]) or any(name in names for name in each["Names"])
            ]
        if not of_service:
            known = sorted({each["Labels"].get(SERVICE, "") for each in listed} - {""})
            message = f"{target} has no service {service}; it has {', '.join(known) or 'no containers at all'}"
            raise Permanent(message, slug="no-such-service")
        found = await asyncio.gather(*(self._engine.inspect(id) for id in of_service))
        return sorted(found, key=lambda each: str(each["Name"]))


def _numbered(labels: dict[str, str]) -> str:
    return f"{labels.get(SERVICE, '')}-{labels.get(NUMBER, '')}"


def _shown(inspected: Json) -> str:
    labels: dict[str, Any] = inspected["Config"]["Labels"] or {}
    return _numbered(labels) if SERVICE in labels else str(inspected["Name"]).lstrip("/")


def _state(inspected: Json) -> str:
    """healthy, unhealthy or starting where it has a health check, else what the engine calls its state."""
    state = inspected["State"]
    if state["Status"] != "running" or "Health" not in state:
        return str(state["Status"])
    return str(state["Health"]["Status"])
