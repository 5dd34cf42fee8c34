"""The power goes while decisions are appended: with ``sync_interval: always`` all that were acknowledged are there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from events.envelope import Envelope
from events.errors import CairnError
from events.run import AgentReminded
from infra.jetstream.connection import JetStream
from infra.settings import Nats, Settings
from tests.needs import missing
from tests.power_loss.machine import Machine, lacking
from tests.waiting import until

pytestmark = pytest.mark.integration

WRITERS = 8
WRITING_SECONDS = 2.0
FAILURES = 2


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    if lacks := lacking():
        missing(f"{lacks} is not here: `.ci/machine` provides it", "CAIRN_TEST_MACHINE")
    made = Machine(tmp_path, sync=request.param)
    made.start()
    yield made
    made.cut_power()


def decision(number: int, text: str) -> Envelope:
    time = datetime(2026, 1, 1, tzinfo=UTC)
    id, entity = f"{text}-{number}", f"run-{number}"
    return Envelope(
        id=id, tenant="default", entity="run", entity_id=entity, time=time, events=(AgentReminded(text=text),)
    )


async def connect(machine: Machine) -> JetStream:
    jetstream = await JetStream.connect(Settings(nats=Nats(url=machine.url)), "power-loss")
    await jetstream.ensure_streams()
    return jetstream


async def write(jetstream: JetStream, writer: int, acknowledged: dict[int, str]) -> None:
    """One decision after another to an entity of the writer's own, until the power goes."""
    entity = f"run-{writer}"
    records = await jetstream.log.load("run", entity)
    revision = records[-1].sequence if records else 0
    count = len(records)
    while True:
        count += 1
        revision = await jetstream.log.append(decision(writer, f"decision-{count}"), expected=revision)
        acknowledged[revision] = f"decision-{count}-{writer}"


async def until_the_power_goes(machine: Machine, acknowledged: dict[int, str]) -> None:
    """Append from many writers, cut the power in the middle when enough is acknowledged, and bring the machine up
    again."""
    jetstream = await connect(machine)
    writers = [asyncio.create_task(write(jetstream, writer, acknowledged)) for writer in range(WRITERS)]
    enough = len(acknowledged) + 10 * WRITERS
    await asyncio.sleep(WRITING_SECONDS)
    await until(lambda: len(acknowledged) > enough, seconds=60.0)
    machine.cut_power()
    for writer in writers:
        writer.cancel()
    with contextlib.suppress(CairnError):
        await jetstream.close()
    for ended in await asyncio.gather(*writers, return_exceptions=True):
        assert isinstance(ended, asyncio.CancelledError | CairnError), ended
    await asyncio.to_thread(machine.start)


async def log_of(machine: Machine) -> dict[int, str]:
    jetstream = await connect(machine)
    found = {record.sequence: record.envelope.id async for records in jetstream.log.replay() for record in records}
    await jetstream.close()
    return found


@pytest.mark.parametrize("machine", ["always"], indirect=True)
async def test_no_acknowledged_decision_is_lost(machine: Machine) -> None:
    """Two power failures, each in the middle of appends: the log holds every acknowledged decision at its sequence,
    without a gap, and each writer goes on from there."""
    acknowledged: dict[int, str] = {}
    for _ in range(FAILURES):
        await until_the_power_goes(machine, acknowledged)
        found = await log_of(machine)
        assert {sequence: found.get(sequence) for sequence in acknowledged} == acknowledged
        assert sorted(found) == list(range(1, len(found) + 1))


@pytest.mark.parametrize("machine", [""], indirect=True)
async def test_the_default_loses_some(machine: Machine) -> None:
    """The other test can fail: without the setting acknowledged decisions go with the power."""
    acknowledged: dict[int, str] = {}
    await until_the_power_goes(machine, acknowledged)
    found = await log_of(machine)
    assert len(found) < len(acknowledged)
