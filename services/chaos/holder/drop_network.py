"""No packets between this container and its peers, or everybody.

With peers, both sides have a holder, and each loses what comes in from the other. Without peers, what leaves is lost
too: by the egress hook of each device (Linux 5.16), where the sender does not notice. In ``reset`` mode TCP is answered
with a reset and the rest with "port unreachable"; resets that come in are let through, so that both sides hear them.
"""

from __future__ import annotations

from services.chaos.holder.filters import Rules
from services.chaos.holder.order import Order


class DropNetwork:
    def __init__(self, order: Order) -> None:
        self._everybody = not order.peers
        self._resets = order.parameters.get("mode") == "reset"
        self._rules = Rules(order)

    def apply(self) -> None:
        now, peers = self._rules.while_it_lasts, self._rules.from_peers()
        if self._resets:
            refuse = [f"{now} meta l4proto tcp reject with tcp reset", f"{now} reject"]
            incoming = [
                "tcp flags & rst == rst accept",
                *(f"{peer}{rule}" for peer in peers for rule in refuse),
            ]
            outgoing = ["tcp flags & rst == rst accept", *refuse] if self._everybody else []
            self._rules.set(incoming, outgoing=outgoing)
        else:
            drop = f"{now} drop"
            self._rules.set([f"{peer}{drop}" for peer in peers], egress=[drop] if self._everybody else [])

    def clear(self) -> None:
        self._rules.clear()

    def left(self) -> str:
        return self._rules.left()
