"""What the chaos service needs of the outside: faults in containers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from events.faults import AnyFault
from services.chaos.document import Command, Compose, ContainerState, Http, ServiceHealthy, Tcp
from services.chaos.tolerances import Answer


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container that can be hit, as the engine shows it now.

    ``target`` is the environment that it belongs to (or ``compose:<project>``); ``service`` is its Compose service,
    empty outside of Compose, ``number`` which of the service's containers it is. ``addresses`` are those of all its
    networks. ``started_at`` differs after every start.
    """

    id: str
    name: str
    target: str
    service: str = ""
    number: int = 1
    addresses: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    running: bool = True
    paused: bool = False
    started_at: str = ""

    @property
    def shown(self) -> str:
        """As a person calls it: ``worker-2``."""
        return f"{self.service}-{self.number}" if self.service else self.name


class Affected(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a fault hits, and on the other side of a link, the peers: empty where it is everybody."""

    target: str
    hit: tuple[Container, ...]
    peers: tuple[Container, ...] = ()


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One container that a fault has to be held on, against those addresses; none means everybody."""

    container: Container
    peers: tuple[str, ...] = ()
    is_peer: bool = False


class Injected(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that holds now. ``until`` is in seconds since 1970, ``seconds`` how long injecting took."""

    fault_id: str
    until: float
    containers: tuple[str, ...]
    seconds: float


class Undone(msgspec.Struct, frozen=True, kw_only=True):
    """``stuck`` says what is left in the world, and why, container by container; nothing where all is as before.
    ``seconds`` is how long undoing took."""

    fault_id: str
    stuck: tuple[str, ...] = ()
    seconds: float = 0.0


class FaultRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine itself keeps of one fault on one container: enough to undo it when everything else is lost.

    ``id`` and ``name`` are of the container that is the record; ``hit`` is the id of the one that is hit, ``peers`` are
    the addresses on the other side. ``holds`` is false where the record is left, but nothing keeps the fault up any
    more: its holder ended, or was killed.
    """

    id: str
    name: str = ""
    fault_id: str
    target: str
    fault: AnyFault
    until: float
    hit: str
    hit_started_at: str = ""
    # Both sides of a partition have a record; this is the peer's.
    is_peer: bool = False
    peers: tuple[str, ...] = ()
    experiment_id: str = ""
    holds: bool = True


class Faults(Protocol):
    """Faults in an engine's containers. All of it can be called again: what is done already is not done twice.

    Raises ``Transient`` where no engine answers, and ``Permanent`` with a clear message for what it refuses: a
    container of another environment, a kind that this host cannot do, a resource that another fault holds.
    """

    async def capabilities(self) -> dict[str, str]:
        """For every kind of fault why this host cannot do it; empty where it can."""
        ...

    async def containers(self, target: str) -> tuple[Container, ...]:
        """All containers of an environment, or of ``compose:<project>``, that faults may hit."""
        ...

    async def resolve(self, target: str, fault: AnyFault) -> Affected:
        """Whom the fault would hit now. Raises ``Invalid`` where a service is not there, with those that are."""
        ...

    async def inject(
        self, fault_id: str, fault: AnyFault, affected: Affected, until: float, *, experiment_id: str = ""
    ) -> Injected:
        """Make it so, on all of ``affected`` or on none. ``until`` is when it ends by itself."""
        ...

    async def undo(self, fault_id: str) -> Undone:
        """Make it as before; the record goes only where nothing is left."""
        ...

    async def active(self) -> tuple[FaultRecord, ...]:
        """All records in the engine of this stack on this host, whichever of its processes made them."""
        ...

    async def renew(self, fault_id: str, affected: Affected) -> None:
        """Hold a fault that is there on containers that were started anew meanwhile, or have other addresses."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """One item whenever a container starts or ends in the engine, until the connection breaks (``Transient``)."""
        ...


class World(Protocol):
    """What experiments ask and do beside faults, in the containers of a target and over their published ports.

    Raises ``Permanent`` with a clear message where it cannot be asked or done, ``Transient`` where no engine answers.
    """

    async def ask(self, target: str, provider: Http | Tcp | ServiceHealthy | ContainerState | Command) -> Answer:
        """Ask once. That something does not answer is an answer too."""
        ...

    async def perform(self, target: str, action: Compose) -> str:
        """Start or restart a service's containers; answers what was done."""
        ...


class Commands(Protocol):
    """Command lines in an environment's workspace, as calls of its environment-manager."""

    async def run(self, environment_id: str, experiment_id: str, call_id: str, command: Command) -> Answer:
        """Run it once for each ``call_id``, and answer what it printed. Raises ``Permanent``."""
        ...
