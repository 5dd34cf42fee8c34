"""What comes in from the peers is held back for a while, at INPUT, where TCP keeps its throughput.

The queue's rule is made with iptables: many kernels have NFQUEUE only there. The kernel ends it by itself
(``--datestop``), and passes packets by when nobody serves the queue (``--queue-bypass``). IPv4 only.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from services.chaos.holder.filters import end_of
from services.chaos.holder.order import Order, Refused
from services.chaos.holder.packet_queue import PacketQueue
from services.chaos.holder.programs import run

TABLE = "mangle"
CHAIN = "INPUT"
IPTABLES = ("iptables", "-w", "5", "-t", TABLE)


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
            run([*IPTABLES, "-A", CHAIN, *peer,
                 "-m", "time", "--datestop", end_of(order.until).replace(" ", "T"),
                 "-m", "comment", "--comment", order.mark,
                 "-j", "NFQUEUE", "--queue-num", str(number), "--queue-bypass"])  # fmt: skip

    def clear(self) -> None:
        """The rules first, so that nothing new is held, then what is held goes on. Where iptables made the table for
        us, it goes too."""
        for rule in _marked(self._order.mark):
            run([*IPTABLES, "-D", *rule])
        if _unused():
            run(["nft", "delete", "table", "ip", TABLE])
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def left(self) -> str:
        return f"{len(rules)} rules" if (rules := _marked(self._order.mark)) else ""


def _is_there() -> bool:
    return f"table ip {TABLE}" in run(["nft", "list", "tables"]).splitlines()


def _marked(mark: str) -> list[list[str]]:
    """The rules with our mark, as iptables takes them to delete them. (nft does not show iptables' comments.)"""
    if not _is_there():
        return []
    rules = [shlex.split(line) for line in run([*IPTABLES, "-S", CHAIN]).splitlines()]
    return [rule[1:] for rule in rules if rule[0] == "-A" and mark in rule]


def _unused() -> bool:
    """Whether nothing is in the table but the one empty chain that iptables made for us."""
    if not _is_there():
        return False
    entries: list[dict[str, Any]] = json.loads(run(["nft", "-j", "list", "table", "ip", TABLE]))["nftables"]
    chains = [entry["chain"]["name"] for entry in entries if "chain" in entry]
    return chains == [CHAIN] and not any("rule" in entry for entry in entries)
