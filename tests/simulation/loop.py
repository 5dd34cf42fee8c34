"""An event loop in virtual time: when nothing is ready, the time jumps to the next timer.

Nothing is read from the system: no sockets, no clock, no threads. Callbacks run in the order in which they were
scheduled, so that the same program with the same random numbers does the same in the same order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class NothingLeft(Exception):
    """Everybody waits, and no timer is set: it would be for ever."""


class _Idle:
    """Stands where a selector would wait for sockets: waiting is what moves the time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise NothingLeft
        self._loop.moved_seconds += timeout
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self.moved_seconds = 0.0
        self._selector = _Idle(self)

    def time(self) -> float:
        return self.moved_seconds

    def _process_events(self, events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """There is no other thread that would wake this one."""

    def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end, then cancel whatever still waits, and close."""
        try:
            return self.run_until_complete(work)
        finally:
            self.set_exception_handler(lambda loop, context: None)
            left = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
            for task in left:
                task.cancel()
            if left:  # Gathering nothing would be a future of another loop.
                self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self.run_until_complete(self.shutdown_asyncgens())
            self.close()
