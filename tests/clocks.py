"""Time as a test wants it."""

from __future__ import annotations

from datetime import datetime, timedelta

from infra.clock import SystemClock


class MovedClock(SystemClock):
    """The system's clock, moved on by hand."""

    def __init__(self) -> None:
        self.by = timedelta()

    def now(self) -> datetime:
        return super().now() + self.by
