"""A share of the packets that come in is lost, each by chance on its own."""

from __future__ import annotations

from services.chaos.holder.filters import Rules
from services.chaos.holder.order import Order

PARTS = 100_000


class PacketLoss:
    def __init__(self, order: Order) -> None:
        self._lost = round(float(order.parameters["percent"]) / 100 * PARTS)
        self._rules = Rules(order)

    def apply(self) -> None:
        lose = f"{self._rules.while_it_lasts} numgen random mod {PARTS} < {self._lost} drop"
        self._rules.set([f"{peer}{lose}" for peer in self._rules.from_peers()])

    def clear(self) -> None:
        self._rules.clear()

    def left(self) -> str:
        return self._rules.left()
