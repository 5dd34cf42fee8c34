"""A log like the one that agents at work leave: two decisions a step, 1 KiB of arguments and 1 KiB of a result."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime

from events.content import Inline
from events.envelope import Envelope
from events.environment import ToolCallCompleted
from events.kernel import Event
from events.run import ModelResponded, ToolCallRequested
from infra.ports import EventLog

STEPS = 50
EVENTS_PER_STEP = 3
DECISIONS_PER_STEP = 2
PAYLOAD = Inline("x" * 1024)
WRITERS = 100


def decisions(run: str) -> Iterator[Envelope]:
    """The run's and its environment's, in the order in which they come."""
    environment = run.rpartition("-")[0]
    for step in range(1, STEPS + 1):
        call_id = f"{run}-c{step}"
        call = ToolCallRequested(
            call_id=call_id, step=step, tool="shell", arguments=PAYLOAD, effects="workspace", provider_call_id="toolu_1"
        )
        answer = ModelResponded(step=step, text="Next.", model="scripted", input_tokens=900, output_tokens=300)
        yield _envelope("run", run, call_id, answer, call)
        result = ToolCallCompleted(
            call_id=call_id, run_id=run, tool="shell", duration_ms=12, content=PAYLOAD, exit_code=0, output_bytes=1024
        )
        yield _envelope("environment", environment, f"{call_id}-end", result)


async def append(log: EventLog, runs: range) -> int:
    """Append the steps of runs with these numbers, many at a time; answers the last sequence."""
    waiting = iter(runs)

    async def write() -> int:
        last = 0
        for number in waiting:
            revisions = dict.fromkeys(("run", "environment"), 0)
            for envelope in decisions(f"bench-{number}-development-1"):
                last = await log.append(envelope, expected=revisions[envelope.entity])
                revisions[envelope.entity] = last
        return last

    return max(await asyncio.gather(*(write() for _ in range(WRITERS))))


async def append_paced(log: EventLog, first_run: int, *, per_second: float, seconds: float) -> dict[int, float]:
    """Append ``per_second`` decisions of one run after another; when each was acknowledged, by its sequence."""
    loop = asyncio.get_running_loop()
    acknowledged: dict[int, float] = {}
    began = loop.time()
    revisions: dict[tuple[str, str], int] = {}
    endless = (envelope for run in itertools.count(first_run) for envelope in decisions(f"bench-{run}-development-1"))
    for number, envelope in enumerate(itertools.islice(endless, int(per_second * seconds))):
        await asyncio.sleep(began + number / per_second - loop.time())
        entity = (envelope.entity, envelope.entity_id)
        revisions[entity] = await log.append(envelope, expected=revisions.get(entity, 0))
        acknowledged[revisions[entity]] = loop.time()
    return acknowledged


def _envelope(entity: str, id: str, decision: str, *events: Event) -> Envelope:
    now = datetime.now(UTC)
    return Envelope(id=decision, tenant="default", entity=entity, entity_id=id, time=now, events=events, actor="bench")
