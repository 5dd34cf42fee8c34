"""Starts the reaper: ``python -m services.chaos.reaper``.

Most faults end by themselves: the kernel, or their holder, keeps their end. A paused, killed or limited container needs
somebody who undoes it, and every fault somebody who clears away. The reaper does what the chaos service does where only
the time decides, and what the engine itself knows: it reads no log and needs no NATS, so that a fault ends though the
control plane, the network to it, or the chaos service is down. Where no engine can be it waits, and loads nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import structlog

from events.errors import Permanent
from infra import logs, settings
from infra.clock import SystemClock
from infra.docker.address import may_answer
from infra.health import Health
from infra.process import EXIT_FAILED, EXIT_SETTINGS, EXIT_STOPPED, run_file, stop_signal
from infra.settings import Settings, SettingsInvalid

NAME = "reaper"
NO_ENGINE_SECONDS = 10.0

log = structlog.get_logger()


def main() -> int:
    """Run until a signal ends it; answers with the process's exit code."""
    try:
        loaded = settings.load()
        logs.configure(NAME, loaded.telemetry)
    except SettingsInvalid as error:
        sys.stderr.write(f"cairn {NAME}: {error}\n")
        return EXIT_SETTINGS
    return asyncio.run(serve(loaded))


async def serve(settings: Settings) -> int:
    stopping, health = stop_signal(), Health(NAME)
    try:
        await health.serve(settings.telemetry)
        with run_file(settings.home_path / "run" / f"{NAME}.json", health.url):
            watching = asyncio.create_task(watch(settings))
            asked = asyncio.create_task(stopping.wait())
            log.info("ready", health=health.url)
            await asyncio.wait({watching, asked}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                log.error("the reaper ended", exc_info=watching.exception())
                return EXIT_FAILED
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            return EXIT_STOPPED
    except Permanent as error:
        log.error("not started", error=str(error))
        return EXIT_FAILED
    finally:
        await health.close()


async def watch(settings: Settings) -> None:
    clock = SystemClock()
    while not may_answer():
        await clock.sleep(NO_ENGINE_SECONDS)
    from infra.docker.engine import Engine  # aiodocker takes its time to import
    from services.chaos.adapters.faults import DockerFaults
    from services.chaos.watch import Watch

    async with Engine() as engine:
        await Watch(DockerFaults.of(settings, engine), clock).run()


if __name__ == "__main__":
    sys.exit(main())
