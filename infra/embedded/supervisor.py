"""Keeps programs alive: starts them when what they need is ready, and starts again what dies.

One thread per program. A program that dies is started again at once, then, while it keeps dying, after a wait that
doubles up to ``LONGEST_WAIT_SECONDS``; one that lived for ``STABLE_SECONDS`` begins anew. What happens is told to
``report``, from those threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from events.errors import CairnError
from infra.embedded.program import POLL_SECONDS, Program

FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 10.0
STABLE_SECONDS = 10.0
UNREADY_SECONDS = 60.0


class Started(msgspec.Struct, frozen=True):
    """A process runs; it is not ready yet."""

    name: str
    pid: int


class Ready(msgspec.Struct, frozen=True):
    name: str
    seconds: float


class Died(msgspec.Struct, frozen=True):
    """It ended without being asked to, for the ``count``-th time in a row.

    ``code`` is its exit code, or minus the signal, or None where it could not be started.
    """

    name: str
    count: int
    code: int | None
    wait_seconds: float
    detail: str


class Unready(msgspec.Struct, frozen=True):
    """It lives and has not become ready for ``seconds``."""

    name: str
    seconds: float


class CannotWrite(msgspec.Struct, frozen=True):
    """It lives and cannot write to its disk; it is started anew when there is room again."""

    name: str
    detail: str


Report = Started | Ready | Died | Unready | CannotWrite


class Keeper:
    """One program that is kept alive."""

    def __init__(self, program: Program, needs: Sequence[Keeper], report: Callable[[Report], None]) -> None:
        self.program = program
        self.restarts = 0
        self.ready = threading.Event()
        self._needs = needs
        self._report = report
        self._failures = 0
        self._stopping = threading.Event()
        self._restarting = False
        self._starting = threading.Lock()
        self._stopped = threading.Event()
        self._stopped.set()
        self._thread = threading.Thread(target=self._keep, name=program.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def forgive(self) -> None:
        """Begin anew: the next time that it dies, which may be meant, it is started again at once."""
        self._failures = 0

    def ask_to_stop(self) -> None:
        self._stopping.set()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.ident is None:
            return
        # A process that is being spawned at this moment is seen by the next turn of the loop.
        while self._thread.is_alive():
            self.program.stop()
            self._thread.join(POLL_SECONDS)
        self.program.stop()

    def restart(self) -> None:
        """Ask the present process to end and see to it that it does; the next one is started at once."""
        with self._starting:
            if self.program.has_exited():
                return  # The next one is on its way already.
            self._stopped.clear()
            self._restarting = True
        try:
            self.program.stop()
        finally:
            self.ready.clear()
            self._stopped.set()

    def _keep(self) -> None:
        for need in self._needs:
            while not need.ready.wait(POLL_SECONDS):
                if self._stopping.is_set():
                    return
        wait = 0.0
        while not self._stopping.wait(wait):
            began = time.monotonic()
            code, detail = self._live()
            self.ready.clear()
            # The next process must not begin while somebody still stops this one.
            self._stopped.wait()
            if self._stopping.is_set():
                return
            if self._restarting:
                self._restarting, self._failures, wait = False, 0, 0.0
                continue
            self._failures = 1 if time.monotonic() - began > STABLE_SECONDS else self._failures + 1
            exponent = self._failures - 2
            wait = 0.0 if self._failures == 1 else min(FIRST_WAIT_SECONDS * 2**exponent, LONGEST_WAIT_SECONDS)
            self.restarts += 1
            self._report(Died(self.program.name, self._failures, code, wait, detail))

    def _live(self) -> tuple[int | None, str]:
        """Start it and stay until it has ended; answers its exit code and its last words."""
        try:
            with self._starting:
                pid = self.program.spawn()
        except (OSError, CairnError) as error:
            return None, str(error)
        self._report(Started(self.program.name, pid))
        if self._become_ready():
            self.program.wait_for_exit()
        return self.program.reap(), self.program.log_tail(1)

    def _become_ready(self) -> bool:
        """Wait until the program is ready; False where it ended before that."""
        began = time.monotonic()
        complain_at = began + UNREADY_SECONDS
        while not self.program.has_exited():
            if self.program.is_ready():
                self.ready.set()
                self._report(Ready(self.program.name, time.monotonic() - began))
                return True
            if time.monotonic() > complain_at:
                complain_at += UNREADY_SECONDS
                self._report(Unready(self.program.name, time.monotonic() - began))
            time.sleep(POLL_SECONDS)
        return False


class Supervisor:
    """Programs that are kept alive, in the order in which they were added."""

    def __init__(self, report: Callable[[Report], None] = lambda report: None) -> None:
        self._report = report
        self.keepers: dict[str, Keeper] = {}

    def add(self, program: Program, needs: Sequence[str] = ()) -> None:
        """Start ``program`` as soon as those that it ``needs`` are ready, and keep it alive from then on."""
        keeper = Keeper(program, [self.keepers[name] for name in needs], self._report)
        self.keepers[program.name] = keeper
        keeper.start()

    def wait_until_ready(self, timeout_seconds: float) -> list[str]:
        """Wait until every program is ready; answers the names of those that are not in time."""
        deadline = time.monotonic() + timeout_seconds
        for keeper in self.keepers.values():
            keeper.ready.wait(max(0.0, deadline - time.monotonic()))
        return [name for name, keeper in self.keepers.items() if not keeper.ready.is_set()]

    def restart(self, names: Sequence[str]) -> None:
        """Stop the named programs together, gracefully, and start them again; returns when the old ones have ended."""
        _together([self.keepers[name].restart for name in names])

    def stop(self, names: Sequence[str] | None = None) -> None:
        """Stop the named programs (all, where none are named) together, and wait until they have ended."""
        keepers = [self.keepers[name] for name in (self.keepers if names is None else names)]
        for keeper in keepers:
            keeper.ask_to_stop()
        _together([keeper.stop for keeper in keepers])


def _together(works: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
