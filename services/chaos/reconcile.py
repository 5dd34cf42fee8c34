"""What has to be done about the faults in an engine: its records against the log, the containers and the time. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from events.errors import Invalid
from events.faults import (
    AddLatency,
    CpuStress,
    DiskFill,
    DnsFailure,
    DropNetwork,
    Fault,
    LimitBandwidth,
    MemoryStress,
    PacketLoss,
)
from services.chaos.ports import Affected, Container, FaultRecord, Side
from services.chaos.targets import affected, sides

# Faults in a container's network namespace, which is a new one after every start.
IN_NETWORK = (DropNetwork, AddLatency, PacketLoss, LimitBandwidth, DnsFailure)
# Faults that a container of their own holds.
HELD = (*IN_NETWORK, CpuStress, MemoryStress, DiskFill)


class Undo(msgspec.Struct, frozen=True):
    """The fault has to go."""

    fault_id: str
    reason: str


class Renew(msgspec.Struct, frozen=True):
    """The fault goes on, and is not held everywhere it should be: a container started anew, or its holder died."""

    fault_id: str
    affected: Affected


class Missing(msgspec.Struct, frozen=True):
    """The log says that the fault holds, and the engine has no record of it: it is over."""

    fault_id: str


Action = Undo | Renew | Missing


def reconcile(
    records: Sequence[FaultRecord],
    containers: Mapping[str, Sequence[Container]],
    now: float,
    *,
    known: Collection[str] | None = None,
) -> list[Action]:
    """``containers`` are those of the targets, as they are now. ``known`` are the faults that the log says were
    intended and not yet undone; None where nobody has read the log: then only time decides."""
    by_fault: dict[str, list[FaultRecord]] = {}
    for record in records:
        by_fault.setdefault(record.fault_id, []).append(record)
    actions: list[Action] = []
    for fault_id, of_fault in by_fault.items():
        first = of_fault[0]
        if now >= first.until:
            actions.append(Undo(fault_id, "its time is over"))
        elif known is not None and fault_id not in known:
            actions.append(Undo(fault_id, "the log knows no such fault, or that it ended"))
        elif isinstance(first.fault, HELD):
            whom = _affected(first.target, first.fault, containers.get(first.target, ()))
            if whom is not None and any(_lacks(side, of_fault) for side in sides(first.fault, whom)):
                actions.append(Renew(fault_id, whom))
    return [*actions, *(Missing(fault_id) for fault_id in known or () if fault_id not in by_fault)]


def needs_containers(records: Sequence[FaultRecord]) -> set[str]:
    """The targets whose containers ``reconcile`` asks for."""
    return {record.target for record in records if isinstance(record.fault, HELD)}


def _affected(target: str, fault: Fault, containers: Sequence[Container]) -> Affected | None:
    """Those that run; nobody where a service is gone: then there is nothing to hold until it comes back."""
    try:
        return affected(target, fault, [container for container in containers if container.running])
    except Invalid:
        return None


def _lacks(side: Side, records: Sequence[FaultRecord]) -> bool:
    for record in records:
        if record.hit == side.container.id and record.is_peer == side.is_peer:
            if not isinstance(record.fault, IN_NETWORK):
                # Whoever was ended by the limits that it strained is not tried again.
                if record.holds or record.hit_started_at == side.container.started_at:
                    return False
            elif record.holds and record.hit_started_at == side.container.started_at and record.peers == side.peers:
                return False
    return True
