"""Whom a fault hits: the containers of a target, matched with what a fault names. Pure."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from events.errors import Invalid
from events.faults import DropNetwork, Fault, OnLink
from infra.docker import labels
from services.chaos.ports import Affected, Container, FaultRecord, Side

# A target that is a Compose project which Cairn did not make; any other target is an environment's id.
COMPOSE = "compose:"

# What two faults may take of one container at once, as long as their peers differ.
SHARED_BY_PEER = {"packets", "delay"}

# Ours, beside the environment's own services.
_NEVER_HIT = {labels.SANDBOX, labels.FAULT, labels.REAPER, labels.PROXY}


def wanted_labels(target: str) -> dict[str, str]:
    """The labels by which the containers of a target are found."""
    if target.startswith(COMPOSE):
        return {labels.COMPOSE_PROJECT: target.removeprefix(COMPOSE)}
    return {labels.ENVIRONMENT: target}


def belongs(of_container: Mapping[str, str], target: str, home: str = "") -> bool:
    """Whether a container with these labels may be hit by faults on ``target``. Environments of other installations on
    the same engine may have the same ids: those whose ``home`` is another one are not meant."""
    found = all(of_container.get(name) == value for name, value in wanted_labels(target).items())
    elsewhere = not target.startswith(COMPOSE) and of_container.get(labels.HOME, home) != home
    return found and not elsewhere and of_container.get(labels.ROLE, "") not in _NEVER_HIT


def affected(target: str, fault: Fault, containers: Sequence[Container]) -> Affected:
    """Raises ``Invalid`` where a service or peer is not there, with those that are."""
    hit = _named(target, fault.service, containers)
    if not isinstance(fault, OnLink) or not fault.peer:
        return Affected(target=target, hit=hit)
    peers = _named(target, fault.peer, containers)
    if both := {container.id for container in hit} & {container.id for container in peers}:
        shown = ", ".join(container.shown for container in hit if container.id in both)
        message = f"{fault.kind}: {shown} is on both sides: service {fault.service} and peer {fault.peer}."
        raise Invalid(message, slug="invalid-fault")
    for name, group in ((fault.service, hit), (fault.peer, peers)):
        if not addresses(group):  # No peers would mean everybody.
            message = f"{fault.kind}: {name} has no address in any network: it does not run, or has no network."
            raise Invalid(message, slug="no-address")
    return Affected(target=target, hit=hit, peers=peers)


def _named(target: str, name: str, containers: Sequence[Container]) -> tuple[Container, ...]:
    for match in (
        [container for container in containers if container.service == name],
        [container for container in containers if container.shown == name],
        [container for container in containers if container.name == name],
    ):
        if match:
            return tuple(sorted(match, key=lambda container: (container.number, container.name)))
    known = sorted({container.service or container.name for container in containers})
    if not known:
        message = f"{target} has no containers: bring its system up first (compose_up), or name another target."
        raise Invalid(message, slug="no-containers")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}."
    message = f"{target} has no service {name}. {hint}"
    raise Invalid(message, slug="no-such-service")


def sides(fault: Fault, whom: Affected) -> tuple[Side, ...]:
    """Where the fault has to be held: on every container that it hits; a partition also on the other side."""
    beyond = addresses(whom.peers)
    hit = [Side(container=container, peers=beyond) for container in whom.hit]
    if not isinstance(fault, DropNetwork) or not whom.peers:
        return tuple(hit)
    back = addresses(whom.hit)
    return (*hit, *(Side(container=container, peers=back, is_peer=True) for container in whom.peers))


def addresses(containers: Iterable[Container]) -> tuple[str, ...]:
    return tuple(sorted({address for container in containers for address in container.addresses}))


def record_name(fault_id: str, side: Side, *, held: bool) -> str:
    """The name of the container that is the record. That of a held fault differs for every start of the container that
    is hit and for other peers, so that what is held now is never taken for what was held before."""
    place = "|".join([side.container.started_at, *side.peers]) if held else ""
    digest = hashlib.sha256(place.encode()).hexdigest()[:8]
    return f"cairn-fault-{fault_id}-{side.container.id[:12]}-{digest}"


def clash(fault_id: str, fault: Fault, wanted: Sequence[Side], records: Sequence[FaultRecord]) -> str:
    """Why the fault cannot be beside those that are there; empty where it can. One resource, one fault."""
    for side in wanted:
        for record in records:
            if record.fault_id == fault_id or record.hit != side.container.id or record.fault.takes != fault.takes:
                continue
            apart = record.peers and side.peers and not set(record.peers) & set(side.peers)
            if fault.takes in SHARED_BY_PEER and apart:
                continue
            return (
                f"{side.container.shown} is under {record.fault.kind} ({record.fault_id}) already, and {fault.kind} "
                f"would take the same of it ({fault.takes}). Wait for its end, or undo it."
            )
    return ""
