"""Holds a fault until its end: see the package. Exit codes: 0 nothing is left, 3 never begun, 4 something is left."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Protocol

from services.chaos.holder.add_latency import AddLatency
from services.chaos.holder.cpu_stress import CpuStress
from services.chaos.holder.crash_service import crash
from services.chaos.holder.disk_fill import DiskFill
from services.chaos.holder.dns_failure import DnsFailure
from services.chaos.holder.drop_network import DropNetwork
from services.chaos.holder.filters import devices
from services.chaos.holder.limit_bandwidth import LimitBandwidth
from services.chaos.holder.memory_stress import MemoryStress
from services.chaos.holder.order import Order, Refused, read
from services.chaos.holder.packet_loss import PacketLoss
from services.chaos.holder.probe import probe

EXIT_REFUSED = 3
EXIT_LEFT = 4
LOOK_SECONDS = 0.25
TRIES = 3


class Held(Protocol):
    """A fault that somebody has to hold. ``clear`` is idempotent, and knows what a holder before has left; ``left``
    says what is still there."""

    def apply(self) -> None: ...
    def clear(self) -> None: ...
    def left(self) -> str: ...


KINDS: dict[str, Callable[[Order], Held]] = {
    "drop_network": DropNetwork,
    "add_latency": AddLatency,
    "packet_loss": PacketLoss,
    "limit_bandwidth": LimitBandwidth,
    "dns_failure": DnsFailure,
    "cpu_stress": CpuStress,
    "memory_stress": MemoryStress,
    "disk_fill": DiskFill,
}
IN_NETWORK = {"drop_network", "add_latency", "packet_loss", "limit_bandwidth", "dns_failure"}
ENDING = {signal.SIGTERM, signal.SIGINT}


def say(word: str) -> None:
    """One line for who started us: ``ready``, ``undone``, ``lost …``, ``refused …``, ``left …``."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def hold(order: Order, held: Held) -> int:
    """Apply, wait, undo. A holder that was killed and started again begins anew, also after the end."""
    held.clear()
    if time.time() < order.until:
        try:
            held.apply()
        except Refused as error:
            # No failure: the engine would start the holder again, to no avail.
            say(f"refused {error}")
            return undo(held)
        say("ready")
        wait(order)
    return undo(held)


def wait(order: Order) -> None:
    """Until the end, a signal, or the loss of the network that the fault is in."""
    while (seconds := order.until - time.time()) > 0:
        if signal.sigtimedwait(ENDING, min(seconds, LOOK_SECONDS)) is not None:
            return
        if order.kind in IN_NETWORK and not devices():
            say("lost its network")
            return


def undo(held: Held) -> int:
    why = ""
    for _ in range(TRIES):
        try:
            held.clear()
            why = held.left()
        except Refused as error:
            why = str(error)
        if not why:
            say("undone")
            return 0
    say(f"left {why}")
    return EXIT_LEFT


def main(words: list[str]) -> int:
    # Ends are written in UTC, and nft reads them in local time.
    os.environ["TZ"] = "UTC"
    # Signals wait until they are asked for, so that none comes between applying and undoing.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        match words:
            case ["probe"]:
                say(json.dumps(probe()))
                return 0
            case ["crash", pid, container]:
                crash(int(pid), container)
                return 0
            case ["hold" | "undo" as word]:
                order = read()
                held = KINDS[order.kind](order)
                return hold(order, held) if word == "hold" else undo(held)
            case _:
                message = f"no such word: {' '.join(words)}"
                raise Refused(message)
    except Refused as error:
        say(f"refused {error}")
        return EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
