"""Signals as something that a loop can wait for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable


class Wakeup:
    """Signals as bytes in a pipe. One at a time in a process: a forked child makes its own."""

    def __init__(self, signals: Iterable[int]) -> None:
        self.fd, self._write = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, lambda *_: None)

    def read(self) -> set[int]:
        try:
            return set(os.read(self.fd, 4096))
        except BlockingIOError:
            return set()
