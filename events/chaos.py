"""What holds for chaos beyond single experiments. Owned by the chaos services of all hosts.

The entity with the id ``HALT`` says whether chaos is halted everywhere, the one of a host (``host_entity``) which
faults that host can inject.
"""

from __future__ import annotations

import msgspec

from events.kernel import Command, Entity, Event, evolver, replace

HALT = "halt"


def host_entity(host: str) -> str:
    """The id of the entity that tells of a host."""
    return f"host-{host}"


class HaltChaos(Command, frozen=True, kw_only=True):
    """Abort every experiment on every host, and begin none until ``ResumeChaos``."""

    reason: str = ""


class ResumeChaos(Command, frozen=True, kw_only=True):
    reason: str = ""


class ChaosHalted(Event, frozen=True, kw_only=True):
    reason: str = ""
    by: str = ""


class ChaosResumed(Event, frozen=True, kw_only=True):
    reason: str = ""
    by: str = ""


class ChaosCapabilitiesFound(Event, frozen=True, kw_only=True):
    """What a host can do: for every kind of fault why it cannot, empty where it can."""

    host: str
    faults: dict[str, str]


class Chaos(msgspec.Struct, frozen=True, kw_only=True):
    """``halted`` is set in the entity ``HALT``, ``capabilities`` in that of a host."""

    id: str
    halted: ChaosHalted | None = None
    capabilities: ChaosCapabilitiesFound | None = None


CHAOS: Entity[Chaos] = Entity(
    name="chaos",
    initial=lambda id: Chaos(id=id),
    evolve=evolver(
        {
            ChaosHalted: lambda state, event: replace(state, halted=event),
            ChaosResumed: lambda state, event: replace(state, halted=None),
            ChaosCapabilitiesFound: lambda state, event: replace(state, capabilities=event),
        }
    ),
)
