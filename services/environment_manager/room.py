"""What the process of an environment-manager holds of one environment, while it works in it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from events.kernel import Event
from infra.redaction import Redactor
from services.environment_manager.operations import Asked, Done, Operation


@dataclass
class Room:
    """What this process holds of one environment: its order of changes, and the calls under way with their
    processes and operations. ``facts`` are to be in the log with the ends of their calls. ``resolved`` are the
    uncertain calls that may be executed again."""

    id: str
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    appending: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    processes: dict[str, str] = field(default_factory=dict)
    operations: dict[str, asyncio.Future[Done]] = field(default_factory=dict)
    interrupted: dict[str, str] = field(default_factory=dict)
    facts: dict[str, tuple[Event, ...]] = field(default_factory=dict)
    resolved: set[str] = field(default_factory=set)
    preparing: int = 0
    redactors: dict[tuple[str, ...], Redactor] = field(default_factory=dict)

    async def operate(self, asked: Asked, operation: Operation) -> Done | None:
        """What the operation comes to, within the limit of its run; None where the call was interrupted."""
        command = asked.command
        operating = asyncio.ensure_future(operation(asked))
        self.operations[command.call_id] = operating
        if command.call_id in self.interrupted:
            operating.cancel()
        try:
            async with asyncio.timeout(command.time_limit_seconds or None):
                return await operating
        except TimeoutError:
            detail = f"it was ended after {command.time_limit_seconds:g} seconds, the limit of its run."
            return Done(cause="timed-out", detail=detail)
        except asyncio.CancelledError:
            if command.call_id not in self.interrupted:
                raise
            return None
        finally:
            self.operations.pop(command.call_id, None)

    def leave(self, call_id: str) -> None:
        self.calls.pop(call_id, None)
        self.facts.pop(call_id, None)
        self.interrupted.pop(call_id, None)
