"""Says that a run is held, for as long as it is: whoever asks for its status sees that somebody works on it.

What keeps two runners from holding one run is the log. This only tells others, so it may get lost: it is said three
times in the time that it lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from events.errors import Fenced
from infra.ports import Clock, RunLease, RunLeases

TIMES_A_LEASE = 3


class ShownLeases:
    """The leases of the process ``runner`` on ``host``, which last ``seconds``."""

    def __init__(self, leases: RunLeases, clock: Clock, *, runner: str, host: str, seconds: float) -> None:
        self._leases = leases
        self._clock = clock
        self._runner = runner
        self._host = host
        self._seconds = seconds

    @contextlib.asynccontextmanager
    async def shown(self, run_id: str) -> AsyncIterator[None]:
        """Show that the run is held. Where another process turns out to hold it by now, it is its to say."""
        lease = RunLease(run_id=run_id, runner=self._runner, host=self._host)
        self._leases.hold(lease, self._seconds)
        saying = asyncio.create_task(self._say_again(lease))
        try:
            yield
        except Fenced:
            raise
        except BaseException:
            self._leases.release(run_id)
            raise
        else:
            self._leases.release(run_id)
        finally:
            saying.cancel()

    async def _say_again(self, lease: RunLease) -> None:
        while True:
            await self._clock.sleep(self._seconds / TIMES_A_LEASE)
            self._leases.hold(lease, self._seconds)
