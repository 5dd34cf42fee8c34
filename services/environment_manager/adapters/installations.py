"""What installations of one tenant have in an engine, and who removes it where one of them never comes back.

Each removes what is its own by comparing with the log. For one that does that no more there is a lease in the engine: a
volume without contents that carries the installation's labels and ``cairn.expires``. It is there while the engine holds
anything else of the installation, and is renewed long before its end. Labels cannot be changed, so renewing makes
another volume. What belongs to an installation without a valid lease, and is older than a lease lasts, is removed by
whoever of the same tenant uses that engine.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from events.errors import Transient
from infra.docker import labels
from infra.docker.address import may_answer
from infra.ports import Clock

if TYPE_CHECKING:
    from infra.docker.engine import Engine

LEASE_SECONDS = 7 * 86_400
RENEW_SECONDS = 86_400

# In the order in which they can be removed.
CONTAINERS, NETWORKS, VOLUMES, IMAGES = "containers", "networks", "volumes", "images"


class Thing(msgspec.Struct, frozen=True):
    """``path`` is the engine's, by which it is removed; ``created_at`` in seconds since 1970."""

    path: str
    name: str
    marks: Mapping[str, str]
    created_at: float

    @property
    def installation(self) -> str:
        return labels.installation(self.marks)

    @property
    def is_lease(self) -> bool:
        return self.marks.get(labels.ROLE) == labels.INSTALLATION


class DockerInstallations:
    """``marks`` are the labels of this installation: its tenant, host and home."""

    def __init__(self, clock: Clock, marks: Mapping[str, str]) -> None:
        self._clock = clock
        self._marks = dict(marks)
        self._engine: Engine | None = None

    async def close(self) -> None:
        with contextlib.suppress(Transient):
            await self.keep()
        if self._engine is not None:
            await self._engine.close()

    async def keep(self) -> list[str]:
        if not may_answer():
            return []
        now = self._clock.now().timestamp()
        things = await self.things()
        mine = [thing for thing in things if thing.installation == labels.installation(self._marks)]
        await self._keep_lease(mine, now)
        living = {thing.installation for thing in things if thing.is_lease and _expires(thing) > now}
        living.add(labels.installation(self._marks))
        over = [each for each in things if each.installation not in living and each.created_at < now - LEASE_SECONDS]
        await self.remove(over)
        return [each.name for each in over if not each.is_lease]

    async def things(self) -> list[Thing]:
        """Everything in the engine of every installation of this tenant, in the order in which it can be removed."""
        engine = self._open()
        filters = {"label": [f"{labels.TENANT}={self._marks[labels.TENANT]}", labels.HOME]}
        found: list[Thing] = []
        for kind, path in ((CONTAINERS, "containers/json"), (NETWORKS, "networks"), (VOLUMES, "volumes"),
                           (IMAGES, "images/json")):  # fmt: skip
            everything = True if kind == CONTAINERS else None
            answer = await engine.request("GET", path, params={"filters": filters, "all": everything})
            found += [_thing(kind, item) for item in (answer["Volumes"] or () if kind == VOLUMES else answer)]
        return found

    async def remove(self, things: Iterable[Thing]) -> None:
        engine = self._open()
        from infra.docker.engine import Conflicts, NotThere

        for thing in things:
            with contextlib.suppress(NotThere, Conflicts):  # Conflicts: in use; whoever looks next tries again.
                force = None if thing.path.startswith(NETWORKS) else True
                await engine.request("DELETE", thing.path, params={"force": force})

    async def _keep_lease(self, mine: list[Thing], now: float) -> None:
        """One lease while there is anything, and none where there is nothing."""
        leases = sorted((thing for thing in mine if thing.is_lease), key=_expires)
        needed = len(leases) < len(mine)
        if needed and (not leases or _expires(leases[-1]) < now + LEASE_SECONDS - RENEW_SECONDS):
            expires = int(now + LEASE_SECONDS)
            digest = hashlib.sha256(labels.installation(self._marks).encode()).hexdigest()[:10]
            marks = {**self._marks, labels.ROLE: labels.INSTALLATION, labels.EXPIRES: str(expires)}
            body = {"Name": f"cairn-installation-{digest}-{expires}", "Labels": marks}
            await self._open().request("POST", "volumes/create", body=body)
        elif needed:
            leases.pop()
        await self.remove(leases)

    def _open(self) -> Engine:
        from infra.docker.engine import Engine  # a seventh of a second, which a worker without an engine does not pay

        self._engine = self._engine or Engine()
        return self._engine


def _thing(kind: str, item: dict[str, Any]) -> Thing:
    id = item["Name"] if kind == VOLUMES else item["Id"]
    created = item.get("Created") or item.get("CreatedAt")
    return Thing(
        path=f"{kind}/{id}",
        name=str(item.get("Name") or (item.get("Names") or item.get("RepoTags") or [id])[0]).lstrip("/"),
        marks=item.get("Labels") or {},
        created_at=created if isinstance(created, int) else datetime.fromisoformat(str(created)).timestamp(),
    )


def _expires(lease: Thing) -> int:
    return int(lease.marks[labels.EXPIRES])
