"""The frame that every service runs in: settings, logs, telemetry, health, JetStream, start, signals, stop.

A service's ``__main__`` is ``sys.exit(run("notifier", start))``, where ``start`` builds the service from a ``Runtime``
and answers with what can be stopped. While NATS is away the process waits for it, healthy but not ready. SIGTERM or
SIGINT stops the service within ``worker.grace_seconds``; a second signal ends the process at once. The file
``<home>/run/<name>.json`` tells where the process answers: ``{"pid": 1234, "health": "http://127.0.0.1:4711"}``.

Exit codes: 0 after a graceful stop, 1 after a failure (said in one log line), 2 where the settings cannot be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
import uvloop

from events.errors import Permanent, Transient
from infra import logs, settings, telemetry
from infra.clock import SystemClock
from infra.health import Health
from infra.jetstream.connection import JetStream
from infra.leases import LeaseFiles
from infra.ports import Clock, Leases
from infra.process import EXIT_FAILED, EXIT_SETTINGS, EXIT_STOPPED, run_file, stop_signal
from infra.settings import Settings, SettingsInvalid

TELL_AFTER_SECONDS = 1.0
FIRST_RETRY_SECONDS = 0.1
LONGEST_RETRY_SECONDS = 2.0
CANCEL_AGAIN_SECONDS = 0.2

log = structlog.get_logger()


@dataclass(frozen=True)
class Runtime:
    """What a service is given to start with."""

    name: str
    settings: Settings
    jetstream: JetStream
    clock: Clock
    health: Health
    _failures: asyncio.Queue[BaseException] = field(default_factory=asyncio.Queue, repr=False)

    def leases(self, durable: str, lease_seconds: float) -> Leases:
        """Where the leases of a queue's commands outlive this process."""
        return LeaseFiles(self.settings.home_path / "leases" / durable, lease_seconds)

    def guard(self, task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        """End the whole process, to be started anew, if ``task`` ends with an exception that it should not have."""

        def ended(task: asyncio.Task[Any]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._failures.put_nowait(error)

        task.add_done_callback(ended)
        return task


class Service(Protocol):
    async def stop(self) -> None:
        """Give back what is held and end; whatever is not done within the grace is cut off."""


Start = Callable[[Runtime], Awaitable[Service]]


def run(name: str, start: Start) -> int:
    """Run the service ``name`` until a signal ends it; answers with the process's exit code."""
    began = time.monotonic()
    try:
        loaded = settings.load()
        logs.configure(name, loaded.telemetry)
    except SettingsInvalid as error:
        sys.stderr.write(f"cairn {name}: {error}\n")
        return EXIT_SETTINGS
    telemetry.configure(name, loaded.telemetry)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(name, loaded, start, began))
    finally:
        telemetry.shutdown()


async def _serve(name: str, settings: Settings, start: Start, began: float) -> int:
    asked_to_stop = stop_signal()
    health = Health(name)
    health.condition("started", False, "starting")  # Before anybody can ask.
    try:
        await health.serve(settings.telemetry)
        with run_file(settings.home_path / "run" / f"{name}.json", health.url):
            return await _start_and_stop(name, settings, start, health, asked_to_stop, began)
    except Permanent as error:
        log.error("not started", error=str(error))
        return EXIT_FAILED
    finally:
        await health.close()


async def _start_and_stop(
    name: str, settings: Settings, start: Start, health: Health, asked_to_stop: asyncio.Event, began: float
) -> int:
    async with contextlib.AsyncExitStack() as stack:
        stopping = asyncio.create_task(asked_to_stop.wait())
        connecting = asyncio.create_task(_connect(name, settings, health, stack))
        if not await _done_before(stopping, connecting):
            return _failed("not started", connecting)
        runtime = Runtime(name, settings, connecting.result(), SystemClock(), health)
        starting = asyncio.ensure_future(start(runtime))
        if not await _done_before(stopping, starting):
            return _failed("not started", starting)
        # What start-up made stays: nothing of it is looked at again by the garbage collector.
        gc.freeze()
        health.condition("started", True)
        log.info("ready", health=health.url, seconds=round(time.monotonic() - began, 3))
        broken = asyncio.create_task(runtime._failures.get())
        await asyncio.wait({stopping, broken}, return_when=asyncio.FIRST_COMPLETED)
        health.condition("started", False, "stopping")
        if broken.done():
            log.error("a part of the service ended, so all of it does", exc_info=broken.result())
        broken.cancel()
        stopped = await _stop(starting.result(), settings.worker.grace_seconds)
        return EXIT_STOPPED if stopped and stopping.done() else EXIT_FAILED


async def _done_before(stopping: asyncio.Task[Any], work: asyncio.Future[Any]) -> bool:
    """Whether ``work`` came to its end well before the process was asked to stop; it is over in any case."""
    await asyncio.wait({stopping, work}, return_when=asyncio.FIRST_COMPLETED)
    while not work.done():
        # Once is not always enough: asyncio.wait_for of Python 3.11 can lose a cancellation.
        work.cancel()
        await asyncio.wait({work}, timeout=CANCEL_AGAIN_SECONDS)
    return not work.cancelled() and work.exception() is None


def _failed(what: str, work: asyncio.Future[Any]) -> int:
    if work.cancelled():
        return EXIT_STOPPED
    error = work.exception()
    log.error(what, exc_info=error)
    return EXIT_SETTINGS if isinstance(error, SettingsInvalid) else EXIT_FAILED


async def _stop(service: Service, grace_seconds: float) -> bool:
    began = time.monotonic()
    stopping = asyncio.ensure_future(service.stop())
    await asyncio.wait({stopping}, timeout=grace_seconds)
    if not stopping.done():
        stopping.cancel()
        log.error("not stopped in time", grace_seconds=grace_seconds)
        return False
    if (error := stopping.exception()) is not None:
        log.error("not stopped well", exc_info=error)
        return False
    log.info("stopped", seconds=round(time.monotonic() - began, 3))
    return True


async def _connect(name: str, settings: Settings, health: Health, stack: contextlib.AsyncExitStack) -> JetStream:
    """JetStream with its streams, as soon as NATS is there; it is closed with ``stack``. Raises ``CairnError``."""
    where = settings.nats.shown_url
    health.condition("nats", False, f"not connected to {where}")
    telling = asyncio.get_running_loop().call_later(
        TELL_AFTER_SECONDS, lambda: log.warning("waiting for NATS", url=where)
    )
    try:
        jetstream = await _connect_at_last(name, settings, health, stack)
    finally:
        telling.cancel()
    health.probe("nats", lambda: "" if jetstream.connected else f"not connected to {where}")
    return jetstream


async def _connect_at_last(
    name: str, settings: Settings, health: Health, stack: contextlib.AsyncExitStack
) -> JetStream:
    delay = FIRST_RETRY_SECONDS
    while True:
        try:
            async with contextlib.AsyncExitStack() as attempt:
                jetstream = await JetStream.connect(settings, name)
                attempt.push_async_callback(jetstream.close)
                await jetstream.ensure_streams()
                stack.push_async_exit(attempt.pop_all())
                return jetstream
        except Transient as error:
            health.condition("nats", False, str(error))
        await asyncio.sleep(delay)
        delay = min(delay * 2, LONGEST_RETRY_SECONDS)
