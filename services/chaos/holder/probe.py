"""What this kernel can do, found out by doing it in a network namespace of our own."""

from __future__ import annotations

import contextlib
import time

from services.chaos.holder import add_latency, drop_network, limit_bandwidth, packet_loss
from services.chaos.holder.order import Order, Refused
from services.chaos.holder.programs import run

SECONDS = 3600.0
PEER = "192.0.2.1"


def probe() -> dict[str, str]:
    """Kind of fault → why not, for those that cannot be; ``netem`` and ``isolation`` tell of parts."""
    found = {
        "drop_network": _tried(drop_network.DropNetwork(_order("drop_network", PEER, mode="drop"))),
        "isolation": _tried_egress(),
        "packet_loss": _tried(packet_loss.PacketLoss(_order("packet_loss", PEER, percent=1))),
        "add_latency": _tried(
            add_latency.AddLatency(_order("add_latency", PEER, delay_milliseconds=1, jitter_milliseconds=0))
        ),
        "limit_bandwidth": _tried_discipline(f"handle {limit_bandwidth.HANDLE} tbf rate 1mbit burst 4096 latency 100ms")
        or _tried_discipline(f"handle {limit_bandwidth.HANDLE} htb default 2"),
        "netem": _tried_discipline("netem delay 1ms"),
    }
    found["dns_failure"] = found["drop_network"]
    return {name: why for name, why in found.items() if why}


def _order(kind: str, *peers: str, **parameters: object) -> Order:
    return Order("probe", kind, time.time() + SECONDS, peers, parameters)


def _tried(fault: drop_network.DropNetwork | packet_loss.PacketLoss | add_latency.AddLatency) -> str:
    try:
        fault.apply()
        fault.clear()
    except Refused as error:
        with contextlib.suppress(Refused):
            fault.clear()
        return str(error)
    return ""


def _tried_egress() -> str:
    text = (
        "table netdev probe {\nchain out {\ntype filter hook egress device lo priority 0; policy accept;\ndrop\n}\n}\n"
    )
    try:
        run(["nft", "-f", "-"], text)
        run(["nft", "delete", "table", "netdev", "probe"])
    except Refused as error:
        return str(error)
    return ""


def _tried_discipline(words: str) -> str:
    try:
        run(["tc", "qdisc", "add", "dev", "lo", "root", *words.split()])
        run(["tc", "qdisc", "del", "dev", "lo", "root"])
    except Refused as error:
        return str(error)
    return ""
