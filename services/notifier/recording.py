"""Recording while the log may be away: the same decision is tried until it is known to be in the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from events.errors import RevisionConflict, Transient
from infra.ports import Clock

log = structlog.get_logger()

T = TypeVar("T")


async def until_recorded(record: Callable[[], Awaitable[T]], clock: Clock) -> T:
    """The answer of ``record``, called again after each ``Transient`` and each lost race, for ever."""
    told = False
    while True:
        try:
            return await record()
        except (Transient, RevisionConflict) as error:
            if not told:
                log.warning("cannot record now; trying again", error=error)
                told = True
            await clock.sleep(error.delay_seconds if isinstance(error, Transient) else 1.0)
