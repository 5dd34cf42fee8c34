"""What the notifier needs from outside, in its own words."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import msgspec

from events.delivery import DeliveryPlanned


class Arrived(msgspec.Struct, frozen=True):
    """The receiver took it."""


class Refused(msgspec.Struct, frozen=True):
    """It did not arrive this time; the receiver asked for ``retry_after_seconds`` or for nothing."""

    detail: str
    retry_after_seconds: float = 0.0


class Gone(msgspec.Struct, frozen=True):
    """It will never arrive: the receiver wants no more, or is not configured any more."""

    detail: str


Answer = Arrived | Refused | Gone


class Sender(Protocol):
    async def send(self, delivery_id: str, planned: DeliveryPlanned) -> Answer:
        """Try once to tell ``planned.receiver``. Every failure is an answer, none is raised."""


class PositionStore(Protocol):
    """Remembers how far the log was read; losing it costs time, never a delivery."""

    def read(self, log_created_at: datetime) -> int | None:
        """The sequence that was reached in the log made at that time, or None."""

    def write(self, log_created_at: datetime, sequence: int) -> None:
        """Remember it. A failure to is logged, not raised."""
