"""Rules in nftables that the kernel itself ends.

All rules of one fault are in tables of its own, named by its mark, so that one idempotent transaction undoes them. Each
rule holds only while ``meta time <`` the end: it lapses even when nobody is left to remove it. Filtering stands at
INPUT: what is dropped there stalls as on a broken link, while a drop at OUTPUT would be an error to who sends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from services.chaos.holder.order import Order
from services.chaos.holder.programs import run

# Before conntrack and everybody's own rules.
PRIORITY = -310
FAMILIES = ("inet", "netdev")


def end_of(until: float) -> str:
    """The first whole second (UTC) at which rules lapse. The holder ends the fault on time: this is for when it is
    dead, so a second later does no harm."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(math.ceil(until) + 1))


class Rules:
    """The tables of one fault in this network namespace."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self.while_it_lasts = f'meta time < "{end_of(order.until)}"'

    def from_peers(self) -> list[str]:
        """How a rule says "from the peers": one match for each family of addresses; one for everybody."""
        if not self._order.peers:
            return [""]
        four, six = self._order.peers_of(4), self._order.peers_of(6)
        return [
            *([f"ip saddr {{ {', '.join(four)} }} "] if four else []),
            *([f"ip6 saddr {{ {', '.join(six)} }} "] if six else []),
        ]

    def set(
        self,
        incoming: Sequence[str],
        *,
        before_loopback: Sequence[str] = (),
        outgoing: Sequence[str] = (),
        egress: Sequence[str] = (),
    ) -> None:
        """Replace all rules of the fault in one transaction. ``incoming`` and ``outgoing`` may refuse; ``egress``, at
        each device, loses what is sent without the sender's notice. Only ``before_loopback`` touches what a container
        says to itself."""
        lines = [*self._removal(), f"table inet {self._order.mark} {{"]
        lines += self._chain(
            "incoming",
            f"type filter hook input priority {PRIORITY}",
            [*before_loopback, 'iifname "lo" accept', *incoming],
        )
        if outgoing:
            lines += self._chain(
                "outgoing", f"type filter hook output priority {PRIORITY}", ['oifname "lo" accept', *outgoing]
            )
        lines.append("}")
        if egress:
            quoted = ", ".join(f'"{device}"' for device in devices())
            lines += [f"table netdev {self._order.mark} {{"]
            lines += self._chain("egress", f"type filter hook egress devices = {{ {quoted} }} priority 0", egress)
            lines.append("}")
        run(["nft", "-f", "-"], "\n".join(lines) + "\n")

    def clear(self) -> None:
        run(["nft", "-f", "-"], "\n".join(self._removal()) + "\n")

    def left(self) -> str:
        tables = run(["nft", "list", "tables"]).splitlines()
        return "; ".join(line for line in tables if line.endswith(f" {self._order.mark}"))

    def _removal(self) -> list[str]:
        """Adding first makes deleting succeed where there is none, on every kernel."""
        names = [f"{family} {self._order.mark}" for family in FAMILIES]
        return [line for name in names for line in (f"add table {name}", f"delete table {name}")]

    def _chain(self, name: str, hook: str, rules: Sequence[str]) -> list[str]:
        return [f"chain {name} {{", f"{hook}; policy accept;", *rules, "}"]


def devices() -> list[str]:
    """The network devices here, but for the loopback: empty once the container is gone from all networks."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()[2:]
    names = [line.partition(":")[0].strip() for line in lines]
    return [name for name in names if name not in ("lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0")]
