"""Where the kernel charges what a process uses."""

from __future__ import annotations

from pathlib import Path

from services.chaos.holder.order import Order, Refused


def check_charged(order: Order) -> None:
    """Raises ``Refused`` where our processes would not be charged to the container that is hit: stress outside of its
    limits would hit the whole host."""
    container = str(order.parameters["container"])
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    if not any(container in line for line in lines):
        message = f"the engine did not put the stress into the control group of container {container[:12]}"
        raise Refused(message)
