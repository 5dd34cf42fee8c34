"""A log in memory over a tenant of its own, and the projector over a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

import pytest

from events import subjects
from events.codec import encode
from events.envelope import Envelope, Recorded
from infra.clock import SystemClock
from infra.memory.event_log import MemoryEventLog
from projections.projector import Projector
from projections.queries import ReadModels, open_read_models
from projections.waiting import ReadModelProgress


def publish(log: MemoryEventLog, decisions: Iterable[Envelope | Recorded]) -> int:
    """Put decisions into the log as they are; answers with the last sequence."""
    sequence = 0
    for decision in decisions:
        envelope = decision.envelope if isinstance(decision, Recorded) else decision
        subject = subjects.event(log.tenant, envelope.entity, envelope.entity_id)
        sequence = log.publish(subject, encode(envelope))
    return sequence


@pytest.fixture
def log() -> MemoryEventLog:
    return MemoryEventLog(f"t{uuid.uuid4().hex[:12]}", SystemClock())


@dataclass
class Readiness:
    """What a projector last reported, and all of its reasons."""

    met: bool = False
    reasons: list[str] = field(default_factory=list)

    def __call__(self, met: bool, reason: str) -> None:
        self.met = met
        self.reasons.append(reason)


@contextlib.asynccontextmanager
async def projecting(log: MemoryEventLog, url: str) -> AsyncIterator[Readiness]:
    """A projector at work."""
    readiness = Readiness()
    task = asyncio.create_task(Projector(log, url, SystemClock(), readiness).run())
    try:
        yield readiness
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def reading(log: MemoryEventLog, url: str) -> AsyncIterator[tuple[ReadModels, ReadModelProgress]]:
    models = await open_read_models(url, log.tenant)
    async with ReadModelProgress(url, log.tenant) as progress:
        yield models, progress
    await models.close()
