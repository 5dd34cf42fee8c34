"""The projector's process: ``python -m projections``."""

from __future__ import annotations

import asyncio
import contextlib
import sys

from infra.postgres import sign_in_url
from infra.service import Runtime, run
from projections.projector import Projector


class RunningProjector:
    def __init__(self, work: asyncio.Task[None]) -> None:
        self._work = work

    async def stop(self) -> None:
        self._work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._work


async def start(runtime: Runtime) -> RunningProjector:
    runtime.health.condition("read models", False, "catching up")
    projector = Projector(
        runtime.jetstream.log,
        sign_in_url(runtime.settings.postgres),
        runtime.clock,
        lambda met, reason: runtime.health.condition("read models", met, reason),
    )
    return RunningProjector(runtime.guard(asyncio.create_task(projector.run(), name="projector")))


if __name__ == "__main__":
    sys.exit(run("projector", start))
