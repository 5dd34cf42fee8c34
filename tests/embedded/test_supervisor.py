"""The supervisor: what dies comes back, what stops leaves nothing."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from infra.embedded.program import Launch, Program, rotate
from infra.embedded.supervisor import Died, Ready, Report, Started, Supervisor

pytestmark = pytest.mark.integration

FOREVER = "import time, pathlib; pathlib.Path({ready!r}).touch(); time.sleep(3600)"


class Script(Program):
    """A Python script; ready when it has made the file that it is given as ``{ready}``."""

    def __init__(self, name: str, directory: Path, script: str) -> None:
        super().__init__(name, directory / f"{name}.log")
        self.stop_seconds = 1.0
        self._ready = directory / f"{name}.ready"
        self._script = script.replace("{ready!r}", repr(str(self._ready)))

    def launch(self) -> Launch:
        self._ready.unlink(missing_ok=True)
        return Launch(argv=(sys.executable, "-S", "-c", self._script))

    def is_ready(self) -> bool:
        return self._ready.exists()


class Reports:
    """What the supervisor reports, to be waited for."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Report] = queue.Queue()

    def __call__(self, report: Report) -> None:
        self._queue.put(report)

    def next(self, kind: type[Report]) -> Report:
        while True:
            report = self._queue.get(timeout=20)
            if isinstance(report, kind):
                return report


def test_what_is_killed_is_started_again_at_once(tmp_path: Path) -> None:
    """After kill -9 another process of the program becomes ready, without a wait."""
    reports = Reports()
    supervisor = Supervisor(reports)
    supervisor.add(Script("sleeper", tmp_path, FOREVER))
    try:
        first = reports.next(Started)
        assert isinstance(first, Started)
        reports.next(Ready)
        os.kill(first.pid, signal.SIGKILL)
        died = reports.next(Died)
        assert isinstance(died, Died)
        assert (died.code, died.wait_seconds) == (-signal.SIGKILL, 0.0)
        second = reports.next(Started)
        assert isinstance(second, Started)
        assert second.pid != first.pid
        reports.next(Ready)
        assert supervisor.keepers["sleeper"].restarts == 1
    finally:
        supervisor.stop()
    assert not psutil.pid_exists(second.pid)


def test_what_keeps_dying_is_started_ever_more_slowly(tmp_path: Path) -> None:
    """The waits double from the second death on, and the last words are told."""
    reports = Reports()
    supervisor = Supervisor(reports)
    supervisor.add(Script("failing", tmp_path, "print('no luck'); raise SystemExit(3)"))
    try:
        deaths = [reports.next(Died) for _ in range(4)]
    finally:
        supervisor.stop()
    assert [(death.code, death.wait_seconds) for death in deaths if isinstance(death, Died)] == [
        (3, 0.0),
        (3, 0.1),
        (3, 0.2),
        (3, 0.4),
    ]
    assert all(death.detail == "no luck" for death in deaths if isinstance(death, Died))


def test_what_cannot_be_started_is_reported(tmp_path: Path) -> None:
    """A program whose file is missing is told of like one that died."""

    class Missing(Script):
        def launch(self) -> Launch:
            return Launch(argv=(str(tmp_path / "missing"),))

    reports = Reports()
    supervisor = Supervisor(reports)
    supervisor.add(Missing("missing", tmp_path, ""))
    try:
        died = reports.next(Died)
    finally:
        supervisor.stop()
    assert isinstance(died, Died)
    assert died.code is None
    assert "No such file" in died.detail


def test_stopping_leaves_nothing_of_the_group(tmp_path: Path) -> None:
    """A program that ignores SIGTERM is killed, and so are the children in its group."""
    script = (
        "import os, pathlib, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(3600)'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "pathlib.Path({ready!r}).touch()\n"
        "time.sleep(3600)\n"
    )
    reports = Reports()
    supervisor = Supervisor(reports)
    supervisor.add(Script("stubborn", tmp_path, script))
    started = reports.next(Started)
    reports.next(Ready)
    child = int((tmp_path / "child").read_text())
    supervisor.stop()
    assert isinstance(started, Started)
    assert not _runs(started.pid)
    deadline = time.monotonic() + 10.0  # It is killed by then; on a busy machine it may take a moment to be gone.
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_waits_for_what_it_needs(tmp_path: Path) -> None:
    """A program starts when the one that it needs is ready, not before."""
    order: list[str] = []
    ready = threading.Event()

    def report(report: Report) -> None:
        order.append(f"{type(report).__name__} {report.name}")
        if report.name == "second" and isinstance(report, Ready):
            ready.set()

    supervisor = Supervisor(report)
    supervisor.add(Script("first", tmp_path, f"import time; time.sleep(0.3)\n{FOREVER}"))
    supervisor.add(Script("second", tmp_path, FOREVER), needs=["first"])
    try:
        assert ready.wait(20)
    finally:
        supervisor.stop()
    assert order == ["Started first", "Ready first", "Started second", "Ready second"]


def test_stopping_before_anything_is_ready(tmp_path: Path) -> None:
    """What still waits for something that never becomes ready stops too, and quickly."""
    supervisor = Supervisor()
    supervisor.add(Script("never", tmp_path, "import time; time.sleep(3600)"))
    supervisor.add(Script("waiting", tmp_path, FOREVER), needs=["never"])
    assert supervisor.wait_until_ready(0.2) == ["never", "waiting"]
    began = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - began < 5


def test_a_log_that_has_grown_is_put_aside(tmp_path: Path) -> None:
    """The start after the limit begins a new log and keeps one old one."""
    log = tmp_path / "logs" / "a.log"
    rotate(log, limit_bytes=10)
    log.write_text("short")
    rotate(log, limit_bytes=10)
    assert log.read_text() == "short"
    log.write_text("longer than ten bytes")
    rotate(log, limit_bytes=10)
    assert not log.exists()
    assert (tmp_path / "logs" / "a.log.1").read_text() == "longer than ten bytes"


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_is_restarted_has_not_died(tmp_path: Path) -> None:
    """The old process ends, gracefully or not, before the new one begins; nothing is reported as a death."""
    reports = Reports()
    supervisor = Supervisor(reports)
    supervisor.add(Script("willing", tmp_path, FOREVER))
    supervisor.add(
        Script("stubborn", tmp_path, f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOREVER}")
    )
    try:
        assert supervisor.wait_until_ready(20) == []
        before = {name: keeper.program.pid for name, keeper in supervisor.keepers.items()}
        supervisor.restart(["willing", "stubborn"])
        assert [pid for pid in before.values() if pid is not None and psutil.pid_exists(pid)] == []
        assert supervisor.wait_until_ready(20) == []
        after = {name: keeper.program.pid for name, keeper in supervisor.keepers.items()}
        assert all(after[name] not in (None, before[name]) for name in before)
        assert [keeper.restarts for keeper in supervisor.keepers.values()] == [0, 0]
    finally:
        supervisor.stop()
