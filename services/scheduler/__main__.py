"""Starts the scheduler: ``python -m services.scheduler``."""

from __future__ import annotations

import asyncio
import sys

from events import subjects
from infra.agents import ConfiguredAgents
from infra.consuming import consumer
from infra.hosts import Hosts
from infra.sender import Sender
from infra.service import Runtime, run
from infra.snapshots import SnapshotFile
from services.scheduler.board import Board, BoardSnapshot
from services.scheduler.handlers import Handlers
from services.scheduler.placer import Placer
from services.scheduler.ports import Agents

CONCURRENCY = 16
STOP_SECONDS = 5.0


class Scheduler:
    def __init__(self, runtime: Runtime, board: Board, agents: Agents) -> None:
        settings, jetstream = runtime.settings, runtime.jetstream
        self._runtime = runtime
        self._board = board
        self._wake = asyncio.Event()
        sender = Sender(jetstream.commands, runtime.clock, tenant=settings.tenant, name=subjects.SCHEDULER)
        hosts = Hosts(jetstream.hosts, runtime.clock, own="", lease_seconds=settings.worker.lease_seconds)
        jetstream.on_reconnect(hosts.reconnected)
        self._handlers = Handlers(
            jetstream.log,
            sender,
            runtime.clock,
            self._board,
            agents,
            hosts,
            self._wake.set,
            settings.scheduling,
        )
        self._placer = Placer(
            self._board,
            self._handlers,
            agents,
            hosts,
            runtime.clock,
            self._wake,
            agents_at_once=settings.scheduling.agents_at_once,
            reconcile_seconds=settings.scheduling.reconcile_seconds,
        )
        jetstream.on_reconnect(self._placer.send_again_soon)
        self._consumer = consumer(
            runtime,
            durable=f"{subjects.SCHEDULER}-{settings.tenant}",
            stream=subjects.COMMANDS,
            filters=[subjects.command(settings.tenant, subjects.SCHEDULER, subjects.ANY, "*", "*")],
            handler=self._handlers.handle,
            concurrency=CONCURRENCY,
        )

    async def start(self) -> Scheduler:
        await self._board.load(self._runtime.jetstream.log)
        self._following = await self._board.follow(self._runtime.jetstream.log, self._wake.set)
        await self._consumer.start()
        self._loops = [
            self._runtime.guard(asyncio.create_task(loop)) for loop in (self._placer.run(), self._placer.reconcile())
        ]
        return self

    async def stop(self) -> None:
        for loop in self._loops:
            loop.cancel()
        await self._consumer.stop(STOP_SECONDS)
        await self._following.close()
        self._board.save(least=1)


async def start(runtime: Runtime) -> Scheduler:
    snapshots = SnapshotFile(runtime.settings.home_path / "snapshots" / "board", BoardSnapshot)
    return await Scheduler(runtime, Board(snapshots), ConfiguredAgents()).start()


if __name__ == "__main__":
    sys.exit(run(subjects.SCHEDULER, start))
