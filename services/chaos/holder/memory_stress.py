"""Memory that is really used, in the control group of the container that is hit."""

from __future__ import annotations

import mmap

from services.chaos.holder.groups import check_charged
from services.chaos.holder.order import Order

MEGABYTE = 1 << 20


class MemoryStress:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._pieces: list[mmap.mmap] = []

    def apply(self) -> None:
        check_charged(self._order)
        content = b"\xa5" * MEGABYTE
        for _ in range(int(self._order.parameters["megabytes"])):
            piece = mmap.mmap(-1, MEGABYTE)
            piece.write(content)  # Memory counts once it is written.
            self._pieces.append(piece)

    def clear(self) -> None:
        while self._pieces:
            self._pieces.pop().close()

    def left(self) -> str:
        """Nothing outlives the holder's container."""
        return ""
