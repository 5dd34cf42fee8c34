"""What survives a power failure, in words that everyone shows alike.

The one setting that decides it is nats-server's ``sync_interval``: with ``always`` a message is synced to the disk
before it is acknowledged, otherwise every two minutes, or as the operator set it. A client cannot see it over the
NATS protocol. So it is asked of the server's monitoring address (``nats.monitor_url``, ``/varz``) where that is given,
else the operator's word is taken (``nats.sync``), else nothing is known; ``known_by`` says which.

A killed process takes nothing in any case: what it wrote is with the kernel.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import Literal

import msgspec

from infra.settings import Nats

ALWAYS: Literal["always"] = "always"
INTERVAL: Literal["interval"] = "interval"
UNKNOWN: Literal["unknown"] = "unknown"
SERVER, SETTING, NOBODY = "server", "setting", "nobody"

# nats-server's own, where nothing is set.
DEFAULT_INTERVAL_SECONDS = 120.0
ASK_SECONDS = 2.0
KEPT_SECONDS = 60.0


class Durability(msgspec.Struct, frozen=True, kw_only=True):
    """``level`` is always, interval or unknown. ``loss_window_seconds`` is how much of what was acknowledged power loss
    may take, None where nobody knows; with ``replicas`` it takes that only where a majority loses power at once.
    ``known_by`` is server, setting or nobody."""

    level: str
    loss_window_seconds: float | None
    replicas: int
    known_by: str

    @property
    def sentence(self) -> str:
        if self.level == ALWAYS:
            return "power loss takes nothing: an acknowledged event is on the disk (sync_interval: always)"
        if self.loss_window_seconds is None:
            return "unknown: nobody said how NATS writes to its disks; set nats.monitor_url, or nats.sync to what it is"
        window = f"the last {self.loss_window_seconds:g} s of acknowledged events"
        if self.replicas > 1:
            return f"power loss of a majority of {self.replicas} servers at once can take {window}; of fewer, nothing"
        return f"power loss can take {window} (sync_interval is not always)"


def stated(nats: Nats) -> Durability:
    """What the settings say."""
    window = {ALWAYS: 0.0, INTERVAL: DEFAULT_INTERVAL_SECONDS}.get(nats.sync)
    return Durability(
        level=nats.sync,
        loss_window_seconds=window,
        replicas=nats.replicas,
        known_by=NOBODY if nats.sync == UNKNOWN else SETTING,
    )


class Finder:
    """Called, it answers what ``find`` found in the last minute."""

    def __init__(self, nats: Nats) -> None:
        self._nats = nats
        self._found: Durability | None = None
        self._found_at = 0.0

    async def __call__(self) -> Durability:
        now = asyncio.get_running_loop().time()
        if self._found is None or now - self._found_at > KEPT_SECONDS:
            self._found, self._found_at = await find(self._nats), now
        return self._found


async def find(nats: Nats) -> Durability:
    """What the server itself says where it can be asked, else what the settings say."""
    if not nats.monitor_url:
        return stated(nats)
    try:
        always, seconds = await asyncio.to_thread(_ask, nats.monitor_url)
    except (OSError, ValueError, KeyError):
        return stated(nats)
    return Durability(
        level=ALWAYS if always else INTERVAL,
        loss_window_seconds=0.0 if always else seconds,
        replicas=nats.replicas,
        known_by=SERVER,
    )


def _ask(monitor_url: str) -> tuple[bool, float]:
    """Whether a server syncs always, and else how often, in seconds."""
    with urllib.request.urlopen(f"{monitor_url.rstrip('/')}/varz", timeout=ASK_SECONDS) as answer:
        config = json.load(answer)["jetstream"]["config"]
    return bool(config.get("sync_always")), config["sync_interval"] / 1e9
