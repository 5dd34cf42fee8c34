"""A keeper: the process that keeps one call. See the package for the whole."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import selectors
import signal
import sys
import time

from services.environment_manager.shim import CALLS, WORKSPACE, Json
from services.environment_manager.shim.process_tree import (
    SET_CHILD_SUBREAPER,
    SET_PDEATHSIG,
    Process,
    descendants,
    prctl,
    send_signal,
)
from services.environment_manager.shim.wakeup import Wakeup

KEEPER_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP)

# How long what a call leaves behind may take to end after SIGTERM.
LEFTOVER_GRACE_SECONDS = 1.0
# How long a call that somebody interrupts may take: whoever cancels a task sees its processes gone within 5 s.
INTERRUPTED_GRACE_SECONDS = 3.0
# How soon a full disk is tried again.
FULL_DISK_PAUSE_SECONDS = 0.5
SHORTEST_TICK_SECONDS = 0.02
LONGEST_TICK_SECONDS = 0.25


class Keeper:
    """One call: starts its program, waits for it within its limits, ends what it left, writes how it went."""

    def __init__(self, order: Json, directory: str) -> None:
        self.order = order
        self.limits: dict[str, float] = order["limits"]
        self.workspace = os.path.join(directory, WORKSPACE)
        self.folder = os.path.join(directory, CALLS, order["call"])
        self.main = 0
        self.status: int | None = None  # of the main process, as waitpid gives it
        self.interrupted = False
        self.memory_kills = memory_kills() if order.get("contained") else 0
        self.abandoned = False  # the shim is gone or closes: end everything, nobody waits for a status
        self.begin = self.end = time.monotonic()

    def run(self) -> None:
        output = os.open(os.path.join(self.folder, "output"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.wakeup = Wakeup(KEEPER_SIGNALS)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, KEEPER_SIGNALS)
        detail = self.start(output)
        if detail:
            cause = "not-found"
        else:
            cause, detail = self.supervise(output)
            self.end_tree(self.limits["grace_seconds"])
        if not self.abandoned:
            self.record(output, cause, detail)

    def start(self, output: int) -> str:
        """Fork and execute; '' or why that was not possible."""
        argv: list[str] = self.order["argv"]
        self.begin = time.monotonic()
        read, write = os.pipe()  # closed by a successful exec
        self.main = os.fork()
        if self.main == 0:
            try:
                self.become_program(output)
            except (OSError, ValueError) as error:
                os.write(write, why_not_started(error, argv, self.workspace).encode())
            finally:
                os._exit(127)
        os.close(write)
        with open(read, "rb") as pipe:
            detail = pipe.read().decode()
        if detail:
            os.waitpid(self.main, 0)
            self.end = time.monotonic()
        return detail

    def become_program(self, output: int) -> None:
        prctl(SET_PDEATHSIG, signal.SIGKILL)  # The program does not outlive a keeper that was killed.
        os.setsid()
        os.chdir(self.workspace)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.umask(0o022)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("300")  # Where memory runs out, rather the program than who supervises it.
        # Python ignores some, a service in the background of a script SIGINT and SIGQUIT too; exec would hand that on.
        for number in signal.valid_signals():
            if signal.getsignal(number) == signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        os.execvpe(self.order["argv"][0], self.order["argv"], self.order["env"])

    def supervise(self, output: int) -> tuple[str, str]:
        """Wait for the main process, or for a reason to end it: its cause and a detail."""
        size, changed, tick = 0, self.begin, SHORTEST_TICK_SECONDS
        limit_bytes = self.limits["output_bytes"] or sys.maxsize
        while True:
            heard = self.pause(tick)
            self.reap()
            if self.abandoned or self.status is not None:
                return "", ""
            if signal.SIGTERM in heard:
                self.interrupted = True
                return "interrupted", ""
            now, before, size = time.monotonic(), size, os.fstat(output).st_size
            if size != before:
                changed = now
            if size > limit_bytes:
                return "output-limit", f"It printed more than {limit_bytes} bytes."
            if now - self.begin >= self.limits["seconds"] > 0:
                return "timed-out", f"It did not end within {self.limits['seconds']:g} s."
            if now - changed >= self.limits["idle_seconds"] > 0:
                return "idle", f"It printed nothing for {self.limits['idle_seconds']:g} s."
            fast = size + 16 * (size - before) > limit_bytes
            tick = SHORTEST_TICK_SECONDS if fast else min(tick * 1.5, LONGEST_TICK_SECONDS)

    def end_tree(self, grace_seconds: float) -> None:
        """SIGTERM, grace (a short one where somebody interrupts), SIGKILL, until nothing of the call is left.

        While the main process tidies up, what it starts to do so is left in peace. Once it is gone, what remains
        gets a SIGTERM too and a short grace.
        """
        if self.interrupted:
            grace_seconds = min(grace_seconds, INTERRUPTED_GRACE_SECONDS)
        deadline = time.monotonic() + grace_seconds
        told: set[Process] | None = None
        tick = SHORTEST_TICK_SECONDS / 4
        while self.reap():
            tree = descendants({os.getpid()})
            alone = self.status is not None or self.abandoned
            if alone:
                deadline = min(deadline, time.monotonic() + LEFTOVER_GRACE_SECONDS)
            late = time.monotonic() >= deadline
            for process in tree:
                if late:
                    send_signal(process, signal.SIGKILL)
                elif told is None or (alone and process not in told):
                    send_signal(process, signal.SIGTERM)
            if told is None or alone:
                told = (told or set()) | set(tree)
            if signal.SIGTERM in self.pause(tick):
                deadline = min(deadline, time.monotonic() + INTERRUPTED_GRACE_SECONDS)
            tick = min(tick * 1.5, LONGEST_TICK_SECONDS / 2)

    def pause(self, seconds: float) -> set[int]:
        """Wait for a signal, at most so long: those that came."""
        selector = selectors.PollSelector()
        selector.register(self.wakeup.fd, selectors.EVENT_READ)
        selector.select(seconds)
        heard = self.wakeup.read()
        if signal.SIGHUP in heard:
            self.abandoned = True
        return heard

    def reap(self) -> bool:
        """Collect every child that ended; False when none is left: then, as their reaper, no descendant either."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.main:
                self.status, self.end = status, time.monotonic()

    def record(self, output: int, cause: str, detail: str) -> None:
        code = number = None
        if self.status is not None:
            code = os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else None
            number = os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else None
        if not cause:
            cause = "exited" if number is None else "signalled"
            detail = "" if number is None else f"It was ended by {signal.Signals(number).name}."
            if self.order.get("contained") and (number or code) and memory_kills() > self.memory_kills:
                cause = "out-of-memory"
                detail = "It was over its container's limit of memory, and the kernel ended what took the most."
        status = {
            "cause": cause,
            "code": code,
            "signal": number,
            "detail": detail,
            "duration_ms": round((self.end - self.begin) * 1000),
            "output_bytes": os.fstat(output).st_size,
        }
        while not self.abandoned:
            try:
                os.fsync(output)
                write_durably(os.path.join(self.folder, "status.json"), json.dumps(status))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                # Waiting for room keeps the call from becoming uncertain, though it ended.
                self.pause(FULL_DISK_PAUSE_SECONDS)
            else:
                return


def memory_kills() -> int:
    """How often the kernel has ended a process of this container for its limit of memory (both versions of cgroups)."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError), open(path) as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
    return 0


def keeper_main(shim: int, order: Json, directory: str) -> None:
    """The life of a keeper, from the fork to the end of the process. Never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for name in os.listdir("/proc/self/fd"):  # The socket, the lock and the connections are the shim's.
            if int(name) > 2:
                with contextlib.suppress(OSError):  # the one that listed them
                    os.close(int(name))
        os.setsid()
        prctl(SET_CHILD_SUBREAPER, 1)
        prctl(SET_PDEATHSIG, signal.SIGHUP)
        if os.getppid() == shim:
            Keeper(order, directory).run()
        code = 0
    finally:
        if code:
            sys.excepthook(*sys.exc_info())
        os._exit(code)


def write_durably(path: str, text: str) -> None:
    """The whole file or none of it, also after the power went."""
    with open(path + ".new", "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)


def why_not_started(error: Exception, argv: list[str], cwd: str) -> str:
    """What a person is told of a program that could not be started."""
    name = argv[0]
    if not os.path.isdir(cwd):
        return f"The workspace {cwd} does not exist."
    code = error.errno if isinstance(error, OSError) else None
    path = os.path.join(cwd, name)
    if code == errno.ENOENT and "/" not in name:
        return f"The command {name!r} was not found on PATH."
    if code == errno.ENOENT and os.path.exists(path):
        return f"{name!r} names an interpreter in its first line that does not exist."
    if code == errno.ENOENT:
        return f"The command {name!r} does not exist."
    if code == errno.EACCES and os.path.isdir(path):
        return f"{name!r} is a directory, not a command."
    if code == errno.EACCES:
        return f"{name!r} is not executable."
    if code == errno.ENOEXEC:
        return f"{name!r} is neither a program nor a script with '#!' in its first line."
    return f"{name!r} could not be started: {error}."
