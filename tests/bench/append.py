"""Appending a decision with optimistic concurrency, against a raw publish of the same size by the same client."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import nats
import uvloop

from events.codec import encode
from events.content import Inline
from events.envelope import Envelope
from events.run import ModelResponded, ToolCallRequested
from infra.jetstream.connection import JetStream
from infra.settings import Settings
from tests.bench import worker
from tests.bench.table import Row, percentile

APPENDS = 3000
WARM_UP = 300
ENTITIES = 100


def envelope(entity_id: str, number: int) -> Envelope:
    """A step of an agent: an answer of the model with one call of about 400 bytes."""
    call = ToolCallRequested(
        call_id=f"{entity_id}-c{number}", step=number, tool="noop", arguments=Inline("x" * 100), effects="none"
    )
    return Envelope(
        id=f"{entity_id}-1-{number}",
        tenant="default",
        entity="run",
        entity_id=entity_id,
        time=datetime.now(UTC),
        events=(ModelResponded(step=number, stop_reason="tool_use"), call),
        actor="bench",
    )


async def _sequential(settings: Settings) -> tuple[list[float], list[float]]:
    """Seconds of each append and of each raw publish, taken in turns so that both meet the same machine."""
    jetstream = await JetStream.connect(settings, "bench")
    raw = await nats.connect(settings.nats.url)
    stream = raw.jetstream()
    appends, publishes = [], []
    revision = 0
    for number in range(1, APPENDS + WARM_UP + 1):
        message = envelope("sequential", number)
        began = time.perf_counter()
        revision = await jetstream.log.append(message, expected=revision)
        middle = time.perf_counter()
        await stream.publish("evt.default.floor.sequential", b"x" * len(encode(message)))
        ended = time.perf_counter()
        if number > WARM_UP:
            appends.append(middle - began)
            publishes.append(ended - middle)
    await jetstream.close()
    await raw.close()
    return appends, publishes


async def _concurrent(settings: Settings) -> tuple[float, float]:
    """Appends and raw publishes a second with 100 writers, each waiting for its own acknowledgement."""
    jetstream = await JetStream.connect(settings, "bench")
    raw = await nats.connect(settings.nats.url)
    stream = raw.jetstream()
    size = len(encode(envelope("concurrent-0", 1)))

    async def append(entity: int) -> None:
        revision = 0
        for number in range(1, APPENDS // ENTITIES + 1):
            revision = await jetstream.log.append(envelope(f"concurrent-{entity}", number), expected=revision)

    async def publish(entity: int) -> None:
        for _ in range(APPENDS // ENTITIES):
            await stream.publish(f"evt.default.floor.{entity}", b"x" * size)

    began = time.perf_counter()
    await asyncio.gather(*(append(entity) for entity in range(ENTITIES)))
    middle = time.perf_counter()
    await asyncio.gather(*(publish(entity) for entity in range(ENTITIES)))
    ended = time.perf_counter()
    await jetstream.close()
    await raw.close()
    return APPENDS / (middle - began), APPENDS / (ended - middle)


async def _both(settings: Settings) -> tuple[list[float], list[float], float, float]:
    jetstream = await JetStream.connect(settings, "bench")
    await jetstream.ensure_streams()
    await jetstream.close()
    return *await _sequential(settings), *await _concurrent(settings)


def run() -> list[Row]:
    rows = []
    for sync_always in (False, True):
        with worker.directory() as home, worker.nats_server(home, sync_always=sync_always) as settings:
            appends, publishes, appended, published = uvloop.run(_both(settings))
        sync = "always" if sync_always else "default"
        rate, floor = len(appends) / sum(appends), len(publishes) / sum(publishes)
        rows.append(
            Row(
                what="append a decision, one after another",
                sync=sync,
                value=f"{rate:,.0f}/s, p50 {percentile(appends, 0.5) * 1000:.2f} ms, "
                f"p99 {percentile(appends, 0.99) * 1000:.2f} ms",
                ratio=f"{rate / floor:.2f}",
                floor=f"{floor:,.0f} raw publishes/s",
                target="≥ 0.9",
            )
        )
        rows.append(
            Row(
                what=f"append a decision, {ENTITIES} writers",
                sync=sync,
                value=f"{appended:,.0f}/s",
                ratio=f"{appended / published:.2f}",
                floor=f"{published:,.0f} raw publishes/s",
                target="≥ 0.9",
            )
        )
    return rows
