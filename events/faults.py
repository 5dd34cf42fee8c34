"""The faults that can be asked for, as data: one struct per kind, told apart by ``kind``.

Tools, experiments, HTTP and the command line read them with ``parse``. Times are in seconds or milliseconds, as the
names say. Every fault has an end: there is none without ``duration_seconds``. ``service`` and ``peer`` name a service
of the target's Compose project (all its containers), one container of it (``worker-2``), or a container by name.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from events.errors import Invalid

# However the settings are: nobody wants an hour of it.
LONGEST_SECONDS = 3600.0

Service = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Peer = Annotated[str, Meta(max_length=128, pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$")]


def kind_of(name: str) -> str:
    """``KillService`` is ``kill_service``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Fault(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag=lambda n: kind_of(n)
):
    """What all faults have: whom it hits, and how long."""

    # What of a container it takes for itself: two faults cannot hold the same at once.
    takes: ClassVar[str] = ""

    service: Service
    duration_seconds: Annotated[float, Meta(gt=0, le=LONGEST_SECONDS)]

    @property
    def kind(self) -> str:
        return kind_of(type(self).__name__)


class OnLink(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault between ``service`` and ``peer``; without a peer, between ``service`` and everybody."""

    peer: Peer = ""


class KillService(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End the containers of a service at once, as ``docker kill`` does: they stay down until the end, then start."""

    takes: ClassVar[str] = "process"


class CrashService(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Kill the main process from outside the container, so that its restart policy acts as after a crash. What is
    still down at the end is started."""

    takes: ClassVar[str] = "process"


class StopService(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask the containers to end (SIGTERM, then SIGKILL after the grace): they stay down until the end, then start."""

    takes: ClassVar[str] = "process"

    grace_seconds: Annotated[int, Meta(ge=0, le=60)] = 10


class PauseService(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Freeze all processes: connections stay open and nobody answers."""

    takes: ClassVar[str] = "process"


class DropNetwork(OnLink, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No packets between ``service`` and ``peer``, both ways; without a peer, ``service`` is cut from everybody.
    ``drop``: silence, connections stall and go on afterwards; ``reset``: TCP connections are refused and reset."""

    takes: ClassVar[str] = "packets"

    mode: Literal["drop", "reset"] = "drop"


class AddLatency(OnLink, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What comes in to ``service`` is held back, so that every round trip takes that much longer."""

    takes: ClassVar[str] = "delay"

    delay_milliseconds: Annotated[float, Meta(gt=0, le=60_000)]
    jitter_milliseconds: Annotated[float, Meta(ge=0, le=60_000)] = 0


class PacketLoss(OnLink, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That share of the packets that come in to ``service`` is lost."""

    takes: ClassVar[str] = "packets"

    percent: Annotated[float, Meta(gt=0, le=100)]


class LimitBandwidth(OnLink, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``service`` sends no faster than this."""

    takes: ClassVar[str] = "bandwidth"

    kilobits_per_second: Annotated[int, Meta(ge=8, le=10_000_000)]


class DnsFailure(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``service`` gets no answers to its DNS queries; connections that are open stay."""

    takes: ClassVar[str] = "dns"


class CpuLimit(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Each container of ``service`` has this many CPUs at most (0.25: a quarter of one)."""

    takes: ClassVar[str] = "cpu"

    cpus: Annotated[float, Meta(ge=0.01, le=1024)]


class CpuStress(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``workers`` busy processes beside those of ``service``, within the same limits."""

    takes: ClassVar[str] = "cpu"

    workers: Annotated[int, Meta(ge=1, le=64)] = 1


class MemoryStress(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That much memory is used beside ``service``, charged to its limit."""

    takes: ClassVar[str] = "memory"

    megabytes: Annotated[int, Meta(ge=1, le=1_048_576)]


class DiskFill(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The volume that is mounted at ``path`` is filled up to ``percent``. Only a tmpfs volume with a size."""

    takes: ClassVar[str] = "disk"

    path: Annotated[str, Meta(min_length=2, max_length=4096, pattern=r"^/[^\x00]*$")]
    percent: Annotated[float, Meta(gt=0, le=100)] = 100


AnyFault = (
    KillService
    | CrashService
    | StopService
    | PauseService
    | DropNetwork
    | AddLatency
    | PacketLoss
    | LimitBandwidth
    | DnsFailure
    | CpuLimit
    | CpuStress
    | MemoryStress
    | DiskFill
)

KINDS: dict[str, type[Fault]] = {
    kind_of(struct.__name__): struct
    for struct in (
        KillService,
        CrashService,
        StopService,
        PauseService,
        DropNetwork,
        AddLatency,
        PacketLoss,
        LimitBandwidth,
        DnsFailure,
        CpuLimit,
        CpuStress,
        MemoryStress,
        DiskFill,
    )
}


def parse(raw: Any, *, longest_seconds: float = LONGEST_SECONDS) -> AnyFault:
    """A fault from a document: ``{"kind": "add_latency", "service": "api", "peer": "db",
    "delay_milliseconds": 300, "duration_seconds": 20}``. Raises ``Invalid`` with what is wrong and what can be.
    """
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        near = [name for name in KINDS if kind and str(kind) in name] or difflib.get_close_matches(str(kind), KINDS)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(KINDS)}."
        message = f"{kind!r} is no kind of fault. {hint}"
        raise Invalid(message, slug="invalid-fault")
    try:
        fault: AnyFault = msgspec.convert(raw, AnyFault)
    except msgspec.ValidationError as error:
        message = f"{kind}: {error}"
        raise Invalid(message, slug="invalid-fault") from error
    check(fault, longest_seconds=longest_seconds)
    return fault


def check(fault: Fault, *, longest_seconds: float = LONGEST_SECONDS) -> None:
    """Raises ``Invalid`` for what the types of a fault cannot say."""
    seconds = fault.duration_seconds
    if not (math.isfinite(seconds) and 0 < seconds <= longest_seconds):
        message = (
            f"{fault.kind}: duration_seconds is {seconds:g}; every fault ends: "
            f"it must be more than 0 and at most {longest_seconds:g}."
        )
        raise Invalid(message, slug="invalid-duration")
    if isinstance(fault, OnLink) and fault.peer == fault.service:
        message = f"{fault.kind}: service and peer are both {fault.peer}; name two, or leave the peer out."
        raise Invalid(message, slug="invalid-fault")
    if isinstance(fault, AddLatency) and fault.jitter_milliseconds > fault.delay_milliseconds:
        message = f"{fault.kind}: jitter_milliseconds is more than delay_milliseconds: nothing arrives before it left."
        raise Invalid(message, slug="invalid-fault")
