"""What comes in from the peers is held back for a while, at INPUT, where TCP keeps its throughput.

The queue's rule is made with iptables: many kernels have NFQUEUE only there. The kernel ends it by itself
(``--datestop``), and passes packets by when nobody serves the queue (``--queue-bypass``). IPv4 only.
"""

from __future__ import annotations

import json
from typing import Any

from services.chaos.holder.filters import end_of
from services.chaos.holder.order import Order, Refused
from services.chaos.holder.packet_queue import PacketQueue
from services.chaos.holder.programs import run

TABLE = ("ip", "mangle")
CHAIN = "INPUT"


class AddLatency:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._queue: PacketQueue | None = None

    def apply(self) -> None:
        order = self._order
        # Numbers are per network namespace; other faults' differ because their marks do.
        number = int(order.mark[-4:], 16)
        delay, jitter = (float(order.parameters[f"{name}_milliseconds"]) / 1000 for name in ("delay", "jitter"))
        self._queue = PacketQueue(number, delay, jitter)
        self._queue.open()
        peers = [["-s", peer] for peer in order.peers_of(4)] if order.peers else [["!", "-i", "lo"]]
        if not peers:
            message = "the peers have no IPv4 addresses"
            raise Refused(message)
        for peer in peers:
            run(["iptables", "-w", "5", "-t", TABLE[1], "-A", CHAIN, *peer,
                 "-m", "time", "--datestop", end_of(order.until).replace(" ", "T"),
                 "-m", "comment", "--comment", order.mark,
                 "-j", "NFQUEUE", "--queue-num", str(number), "--queue-bypass"])  # fmt: skip

    def clear(self) -> None:
        """The rules first, so that nothing new is held, then what is held goes on. Where iptables made the table for
        us, it goes too."""
        entries = _entries()
        for rule in _marked(entries, self._order.mark):
            run(["nft", "delete", "rule", *TABLE, CHAIN, "handle", str(rule["handle"])])
        if entries and _unused(_entries()):
            run(["nft", "delete", "table", *TABLE])
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def left(self) -> str:
        return f"{len(rules)} rules" if (rules := _marked(_entries(), self._order.mark)) else ""


def _entries() -> list[dict[str, Any]]:
    """The table as nft lists it; empty where there is none."""
    tables = json.loads(run(["nft", "-j", "list", "tables"]))["nftables"]
    names = [(entry["table"]["family"], entry["table"]["name"]) for entry in tables if "table" in entry]
    if TABLE not in names:
        return []
    entries: list[dict[str, Any]] = json.loads(run(["nft", "-j", "-a", "list", "table", *TABLE]))["nftables"]
    return entries


def _marked(entries: list[dict[str, Any]], mark: str) -> list[dict[str, Any]]:
    return [entry["rule"] for entry in entries if "rule" in entry and mark in json.dumps(entry["rule"])]


def _unused(entries: list[dict[str, Any]]) -> bool:
    """Whether nothing is in the table but the empty chain that iptables made for us."""
    if any("rule" in entry for entry in entries):
        return False
    return [entry["chain"]["name"] for entry in entries if "chain" in entry] == [CHAIN]
