"""What this container sends is slowed by a token bucket: in all (tbf), or only what goes to the peers (htb).

The kernel keeps no end for it: the holder undoes it, and who reconciles undoes it in its place. Our queueing discipline
has a handle of its own; where a foreign one is at the root already, we refuse rather than replace it. IPv4 peers only.
"""

from __future__ import annotations

import json
from typing import Any

from services.chaos.holder.filters import devices
from services.chaos.holder.order import Order, Refused
from services.chaos.holder.programs import run

HANDLE = "cafe:"
# The kernel's own discipline, which every device has, has no handle.
NOBODYS = "0:"
UNLIMITED = "100gbit"


class LimitBandwidth:
    def __init__(self, order: Order) -> None:
        self._order = order

    def apply(self) -> None:
        for device in devices():
            root = _root(device)
            if root and root["handle"] != HANDLE:
                message = f"{device} has a queueing discipline that is not ours ({root['kind']} {root['handle']})"
                raise Refused(message)
            for line in self._commands(device):
                run(["tc", *line.split()])

    def _commands(self, device: str) -> list[str]:
        kilobits = int(self._order.parameters["kilobits_per_second"])
        # Ten milliseconds of it, and at least two full packets (with room for segments that the device joins).
        burst_bytes = max(kilobits * 1000 // 8 // 100, 4096)
        if not self._order.peers:
            return [
                f"qdisc add dev {device} root handle {HANDLE} tbf rate {kilobits}kbit burst {burst_bytes} latency 100ms"
            ]
        return [
            f"qdisc add dev {device} root handle {HANDLE} htb default 2",
            f"class add dev {device} parent {HANDLE} classid {HANDLE}1 htb rate {kilobits}kbit burst {burst_bytes}",
            f"class add dev {device} parent {HANDLE} classid {HANDLE}2 htb rate {UNLIMITED}",
            *(
                f"filter add dev {device} parent {HANDLE} protocol ip u32 match ip dst {peer}/32 flowid {HANDLE}1"
                for peer in self._order.peers_of(4)
            ),
        ]

    def clear(self) -> None:
        for device in self._held():
            run(["tc", "qdisc", "del", "dev", device, "root", "handle", HANDLE])

    def left(self) -> str:
        return ", ".join(f"the queueing discipline of {device}" for device in self._held())

    def _held(self) -> list[str]:
        return [device for device in devices() if (_root(device) or {}).get("handle") == HANDLE]


def _root(device: str) -> dict[str, Any] | None:
    """The discipline that somebody set for a device."""
    listed = json.loads(run(["tc", "-j", "qdisc", "show", "dev", device]) or "[]")
    return next((each for each in listed if each.get("root") and each.get("handle") != NOBODYS), None)
