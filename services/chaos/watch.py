"""Keeps the faults in the engine as they should be: undoes what is over, holds on what was started anew.

It looks every ``LOOK_SECONDS``, when the next fault is due, and when a container starts or ends. What to do is told by
``reconcile``; everything done is idempotent, so that the chaos service and its reaper may both watch at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence

import structlog

from events.errors import Permanent, Transient
from infra.ports import Clock
from services.chaos.ports import Container, Faults, Undone
from services.chaos.reconcile import Missing, Renew, Undo, needs_containers, reconcile

LOOK_SECONDS = 2.0
# While no engine answers.
AWAY_SECONDS = 5.0
# What is stuck is tried again, ever more rarely.
LONGEST_RETRY_SECONDS = 60.0

log = structlog.get_logger()

Told = Callable[[Undone, str], Awaitable[None]]


class Watch:
    """``known`` answers the faults that the log says are open, None where the log is not read. ``undone`` is told of
    every fault that was undone here, or is stuck, with the reason for undoing it; ``missing`` of those that the log
    says hold and the engine has no record of."""

    def __init__(
        self,
        faults: Faults,
        clock: Clock,
        *,
        known: Callable[[], Collection[str] | None] = lambda: None,
        undone: Told | None = None,
        missing: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self._faults = faults
        self._clock = clock
        self._known = known
        self._undone = undone
        self._missing = missing
        self._changed = asyncio.Event()
        self._stuck: dict[str, tuple[float, float]] = {}  # fault → when to try again, and how long was waited
        self._away = ""

    async def run(self) -> None:
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                await self._wait(await self._look())
        finally:
            listening.cancel()

    async def look(self) -> float:
        """Compare once and do what is to be done; answers when the next fault is due, in seconds from now. Raises
        ``Transient`` where no engine answers."""
        records = await self._faults.active()
        containers = {target: await self._containers(target) for target in needs_containers(records)}
        now = self._now()
        for action in reconcile(records, containers, now, known=self._known()):
            match action:
                case Undo():
                    await self._undo(action, now)
                case Renew():
                    await self._renew(action)
                case Missing() if self._missing is not None:
                    await self._missing(action.fault_id)
                case Missing():
                    pass
        ahead = [record.until for record in records if record.until > now]
        return min(LOOK_SECONDS, *(until - self._now() for until in ahead)) if ahead else LOOK_SECONDS

    async def _look(self) -> float:
        """As ``look``, where the engine may be away."""
        self._changed.clear()
        try:
            seconds = await self.look()
        except (Transient, Permanent) as error:
            if not self._away:
                log.warning("faults cannot be looked after", error=str(error))
            self._away = str(error)
            return AWAY_SECONDS
        if self._away:
            log.info("faults can be looked after again")
        self._away = ""
        return seconds

    async def _wait(self, seconds: float) -> None:
        """Until the time is over or something changed."""
        waits = {
            asyncio.ensure_future(self._clock.sleep(max(0.0, seconds))),
            asyncio.ensure_future(self._changed.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _listen(self) -> None:
        while True:
            try:
                async for _ in self._faults.changes():
                    self._changed.set()
            except (Transient, Permanent):
                pass  # Said where faults are looked after; meanwhile the time alone decides when to look.
            await self._clock.sleep(AWAY_SECONDS)

    async def _containers(self, target: str) -> Sequence[Container]:
        try:
            return await self._faults.containers(target)
        except Permanent:
            return ()  # Its project may not be hit any more: the fault is not held on, and ends with its time.

    async def _undo(self, action: Undo, now: float) -> None:
        again, waited = self._stuck.get(action.fault_id, (0.0, LOOK_SECONDS / 2))
        if now < again:
            return
        undone = await self._faults.undo(action.fault_id)
        if undone.stuck:
            waited = min(2 * waited, LONGEST_RETRY_SECONDS)
            self._stuck[action.fault_id] = (now + waited, waited)
            log.error("a fault is stuck", fault=action.fault_id, left=undone.stuck)
        else:
            self._stuck.pop(action.fault_id, None)
            log.info("fault undone", fault=action.fault_id, reason=action.reason)
        if self._undone is not None:
            await self._undone(undone, action.reason)

    async def _renew(self, action: Renew) -> None:
        try:
            await self._faults.renew(action.fault_id, action.affected)
            log.info("fault held on", fault=action.fault_id)
        except Permanent as error:
            log.warning("a fault cannot be held on", fault=action.fault_id, error=str(error))

    def _now(self) -> float:
        return self._clock.now().timestamp()
