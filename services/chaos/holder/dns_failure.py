"""No answers to DNS queries: those to the engine's own server in the container, and those from servers outside.

The engine's server at 127.0.0.11 listens on a port that it chooses, in the container's own network namespace.
"""

from __future__ import annotations

from services.chaos.holder.filters import Rules
from services.chaos.holder.order import Order

SERVER = "127.0.0.11"


class DnsFailure:
    def __init__(self, order: Order) -> None:
        self._rules = Rules(order)

    def apply(self) -> None:
        now = self._rules.while_it_lasts
        outside = [f"{now} {protocol} sport 53 drop" for protocol in ("udp", "tcp")]
        self._rules.set(outside, before_loopback=[f"ip daddr {SERVER} {now} drop"])

    def clear(self) -> None:
        self._rules.clear()

    def left(self) -> str:
        return self._rules.left()
