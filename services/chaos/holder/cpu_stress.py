"""Processes that only compute, in the control group of the container that is hit."""

from __future__ import annotations

import contextlib
import os
import signal

from services.chaos.holder.groups import check_charged
from services.chaos.holder.order import Order


class CpuStress:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._workers: list[int] = []

    def apply(self) -> None:
        check_charged(self._order)
        for _ in range(int(self._order.parameters["workers"])):
            pid = os.fork()
            if not pid:
                signal.pthread_sigmask(signal.SIG_SETMASK, ())
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                while True:
                    pass
            self._workers.append(pid)

    def clear(self) -> None:
        while self._workers:
            pid = self._workers.pop()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def left(self) -> str:
        """Nothing outlives the holder's container: all its processes end with it."""
        return ""
