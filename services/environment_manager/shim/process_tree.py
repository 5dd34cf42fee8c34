"""The processes of this host as a tree, and signals that cannot hit the wrong one. Linux only."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
from collections.abc import Collection

# linux/prctl.h
SET_PDEATHSIG, SET_CHILD_SUBREAPER, SET_NO_NEW_PRIVS = 1, 36, 38

# A process for ever, however often its number is used again: its pid and its start in clock ticks since boot.
Process = tuple[int, int]


def prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def read_process(pid: int) -> tuple[int, int] | None:
    """(parent's pid, start time) of a live process; None for one that is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except OSError:
        return None
    fields = data[data.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else (int(fields[1]), int(fields[19]))


def processes() -> dict[int, tuple[int, int]]:
    """pid → (parent's pid, start time) of every live process."""
    found = {int(name): read_process(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    return {pid: known for pid, known in found.items() if known is not None}


def descendants(roots: Collection[int], *, without: Collection[int] = ()) -> list[Process]:
    """Every live process below ``roots``, these not included; what is below ``without`` is left out with it."""
    alive = processes()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in alive.items():
        children.setdefault(parent, []).append(pid)
    below: list[Process] = []
    todo = list(roots)
    while todo:
        for pid in children.get(todo.pop(), ()):
            if pid not in without:
                below.append((pid, alive[pid][1]))
                todo.append(pid)
    return below


def send_signal(process: Process, number: int) -> None:
    """Signal exactly this process, never a later one with its number. One that is gone is no error."""
    pid, started = process
    with contextlib.suppress(ProcessLookupError):
        try:
            handle = os.pidfd_open(pid)
        except OSError as error:
            if error.errno == errno.ESRCH:
                return
            handle = -1  # A kernel without pidfd: the check of the start time is all there is.
        try:
            known = read_process(pid)
            if known is None or known[1] != started:
                return
            if handle < 0:
                os.kill(pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
        finally:
            if handle >= 0:
                os.close(handle)
