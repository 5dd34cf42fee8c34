"""A circuit breaker: whether agents may use a credential at a provider at the moment. Owned by the scheduler.

Three transient failures in a row open it for a while. Then one run, the probe, tries; how that goes closes the breaker
or opens it again. An answer of the provider, be it a refusal that waiting does not mend, ends the row.

Runners report what their runs meet at the provider, placement starts nothing that would use an open breaker, and runs
under way wait until they may call (``Breaker.lets``).
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from urllib.parse import urlsplit

import msgspec

from events.agents import Agent, ModelAgent
from events.kernel import Command, Entity, Event, evolver, replace

# Reports that were counted are remembered, so that one that comes again does not count again.
REMEMBERED = 50


class Credential(msgspec.Struct, frozen=True):
    """What a breaker is for: ``id`` is the breaker's, ``name`` tells a person which one it is. No secret is in it."""

    id: str
    name: str


def credential_of(agent: Agent) -> Credential | None:
    """A model's is its provider, the address and the key's reference; a program's is the references of its secrets,
    or the command itself where it keeps its own. A scripted model needs none."""
    if isinstance(agent, ModelAgent):
        if agent.provider == "scripted":
            return None
        parts = urlsplit(agent.base_url)
        address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        name = " ".join(filter(None, (agent.provider, address, agent.key or "without a key")))
        exact = (agent.provider, agent.base_url, agent.key)
    else:
        exact = ("program", *(sorted(agent.secrets.values()) or agent.command))
        name = f"{agent.command[0] if agent.command else 'program'} {' '.join(sorted(agent.secrets.values()))}".strip()
    digest = hashlib.sha256("\0".join(exact).encode()).hexdigest()[:16]
    return Credential(f"credential-{digest}", name)


class RecordProviderFault(Command, frozen=True, kw_only=True):
    """A run's provider flinched. ``fault_id`` is the same however often it is reported."""

    credential: str
    run_id: str
    fault_id: str
    cause: str
    detail: str
    retry_after_seconds: float = 0.0


class RecordProviderAnswer(Command, frozen=True, kw_only=True):
    """A run's provider answered, or refused for good: it is there."""

    run_id: str


class RequestProbe(Command, frozen=True, kw_only=True):
    """A run waits for the breaker, whose time is over, and would try."""

    run_id: str


class ProviderFaultCounted(Event, frozen=True, kw_only=True):
    """One more transient failure in a row, of whichever run. ``credential`` tells a person what the breaker is for."""

    credential: str
    run_id: str
    fault_id: str
    cause: str
    detail: str


class FaultsForgotten(Event, frozen=True, kw_only=True):
    """The provider answered before the breaker opened: the row has ended."""

    run_id: str


class BreakerOpened(Event, frozen=True, kw_only=True):
    """Nothing uses the credential until ``until``. ``failures`` counts those in a row, the last one is told of."""

    credential: str
    failures: int
    cause: str
    detail: str
    until: datetime


class ProbeStarted(Event, frozen=True, kw_only=True):
    """This run may use the credential, no other one."""

    run_id: str


class ProbeFailed(Event, frozen=True, kw_only=True):
    """The provider flinched once more: the breaker is open again until ``until``."""

    run_id: str
    fault_id: str
    cause: str
    detail: str
    until: datetime


class BreakerClosed(Event, frozen=True, kw_only=True):
    """The provider answered the probe."""

    credential: str
    run_id: str


class Breaker(msgspec.Struct, frozen=True, kw_only=True):
    """``faults`` are those in a row, ``counted`` the last that ever counted. ``until`` is set while it is not closed,
    ``probe`` once a run may try. ``cause`` and ``detail`` are of the last fault."""

    id: str
    credential: str = ""
    faults: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    until: datetime | None = None
    probe: str = ""
    cause: str = ""
    detail: str = ""

    @property
    def status(self) -> str:
        """closed, open or half_open."""
        if self.until is None:
            return "closed"
        return "half_open" if self.probe else "open"

    def lets(self, run_id: str) -> bool:
        """Whether the run may use the credential."""
        return self.until is None or self.probe == run_id

    def why_not(self, now: datetime, *, is_probing: bool) -> str:
        """Why nothing new may use the credential; empty where something may, be it as the probe."""
        if self.until is None:
            return ""
        failed = f"{self.credential} failed {len(self.faults)} times in a row, with {self.cause} at last"
        if self.until > now:
            return f"{failed}; it is tried again at {self.until:%Y-%m-%d %H:%M:%S} UTC"
        return f"{failed}; {self.probe} tries if it answers again" if is_probing else ""


def _counted(breaker: Breaker, event: ProviderFaultCounted) -> Breaker:
    return replace(
        breaker,
        credential=event.credential,
        faults=(*breaker.faults, event.fault_id),
        counted=(*breaker.counted, event.fault_id)[-REMEMBERED:],
        cause=event.cause,
        detail=event.detail,
    )


def _probe_failed(breaker: Breaker, event: ProbeFailed) -> Breaker:
    return replace(
        breaker,
        faults=(*breaker.faults, event.fault_id)[-REMEMBERED:],
        counted=(*breaker.counted, event.fault_id)[-REMEMBERED:],
        cause=event.cause,
        detail=event.detail,
        until=event.until,
        probe="",
    )


BREAKER: Entity[Breaker] = Entity(
    name="breaker",
    initial=lambda id: Breaker(id=id),
    evolve=evolver(
        {
            ProviderFaultCounted: _counted,
            FaultsForgotten: lambda breaker, event: replace(breaker, faults=()),
            BreakerOpened: lambda breaker, event: replace(breaker, until=event.until, probe=""),
            ProbeStarted: lambda breaker, event: replace(breaker, probe=event.run_id),
            ProbeFailed: _probe_failed,
            BreakerClosed: lambda breaker, event: replace(breaker, faults=(), until=None, probe=""),
        }
    ),
)
