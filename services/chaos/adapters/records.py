"""The record of a fault: a container whose labels hold everything that undoing it needs.

Labels cannot be changed after a container is made, survive everything but its removal, and are found with one question
to the engine. A held fault's record is its holder; that of another fault is a container that is never started.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from events.faults import AnyFault
from infra.docker import labels
from infra.docker.engine import Json
from services.chaos.ports import FaultRecord, Side
from services.chaos.reconcile import HELD

FAULT = "cairn.fault"
SPECIFICATION = "cairn.fault.specification"
TARGET = "cairn.fault.target"
UNTIL = "cairn.fault.until"
HIT = "cairn.fault.hit"
HIT_STARTED_AT = "cairn.fault.hit_started_at"
PEERS = "cairn.fault.peers"
IS_PEER = "cairn.fault.is_peer"
# What undoing restores, as JSON.
BEFORE = "cairn.fault.before"
# Whose it is: several stacks may use one engine, and their faults may have the same ids.
OWNER = "cairn.fault.owner"
# A container that only does something and ends; it is no record.
PART = "cairn.fault.part"


def written(
    *,
    owner: str,
    home: str,
    tenant: str,
    host: str,
    experiment_id: str,
    fault_id: str,
    target: str,
    fault: AnyFault,
    until: float,
    side: Side,
    before: Json | None = None,
) -> dict[str, str]:
    """The labels."""
    environment = {} if ":" in target else {labels.ENVIRONMENT: target}
    return {
        labels.TENANT: tenant,
        labels.HOST: host,
        labels.HOME: home,
        labels.ROLE: labels.FAULT,
        labels.EXPERIMENT: experiment_id,
        **environment,
        OWNER: owner,
        FAULT: fault_id,
        SPECIFICATION: msgspec.json.encode(fault).decode(),
        TARGET: target,
        UNTIL: repr(until),
        HIT: side.container.id,
        HIT_STARTED_AT: side.container.started_at,
        PEERS: ",".join(side.peers),
        IS_PEER: "1" if side.is_peer else "",
        BEFORE: json.dumps(before or {}),
    }


def read(container: Json, of: dict[str, str], *, runs: bool) -> FaultRecord | None:
    """``container`` as the engine lists or inspects it, ``of`` its labels. None where they are no record of ours."""
    if PART in of:
        return None
    try:
        fault = msgspec.json.decode(of[SPECIFICATION], type=AnyFault)
        return FaultRecord(
            id=container["Id"],
            name=(container.get("Name") or container["Names"][0]).removeprefix("/"),
            fault_id=of[FAULT],
            target=of[TARGET],
            fault=fault,
            until=float(of[UNTIL]),
            hit=of[HIT],
            hit_started_at=of[HIT_STARTED_AT],
            is_peer=bool(of[IS_PEER]),
            peers=tuple(peer for peer in of[PEERS].split(",") if peer),
            experiment_id=of.get(labels.EXPERIMENT, ""),
            holds=runs or not isinstance(fault, HELD),
        )
    except (KeyError, ValueError, msgspec.MsgspecError):
        return None


def before(of: dict[str, str]) -> dict[str, Any]:
    return dict(json.loads(of.get(BEFORE) or "{}"))
