"""A file that fills the volume of the container that is hit; removing it undoes it."""

from __future__ import annotations

import os
from pathlib import Path

from services.chaos.holder.order import Order, Refused

# Where the volume is mounted in the holder's container.
PLACE = "/fill"


class DiskFill:
    def __init__(self, order: Order, place: str = PLACE) -> None:
        self._order = order
        self._file = Path(place) / f".{order.mark}"

    def apply(self) -> None:
        room = os.statvfs(self._file.parent)
        total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
        wanted = int(total * float(self._order.parameters["percent"]) / 100) - (total - free)
        if wanted <= 0:
            message = f"the volume is {100 - free * 100 // total} % full already"
            raise Refused(message)
        with self._file.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, min(wanted, free))

    def clear(self) -> None:
        self._file.unlink(missing_ok=True)

    def left(self) -> str:
        return str(self._file) if self._file.exists() else ""
