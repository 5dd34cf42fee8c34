"""What the process of an environment-manager holds of one environment, while it works in it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from infra.redaction import Redactor


@dataclass
class Room:
    """What this process holds of one environment: its order of changes, and the calls under way with their
    processes. ``resolved`` are the uncertain calls that may be executed again."""

    id: str
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    appending: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    processes: dict[str, str] = field(default_factory=dict)
    interrupted: dict[str, str] = field(default_factory=dict)
    resolved: set[str] = field(default_factory=set)
    preparing: int = 0
    redactors: dict[tuple[str, ...], Redactor] = field(default_factory=dict)

    def leave(self, call_id: str) -> None:
        self.calls.pop(call_id, None)
        self.interrupted.pop(call_id, None)
