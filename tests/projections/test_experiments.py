"""Rows and journals of experiments, folded from what the chaos service really writes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from events.chaos import CHAOS as CHAOS_ENTITY
from events.chaos import HALT, ChaosCapabilitiesFound, HaltChaos, host_entity
from events.envelope import Recorded
from events.experiment import AbortExperiment
from infra.entities import Cause, EntityStore
from projections.journal import journal
from services.chaos.tolerances import Answer
from tests.projections.tables import Tables
from tests.unit.chaos_twins import ChaosTwin, document, fault, probe, virtually


async def everything(twin: ChaosTwin) -> list[Recorded]:
    return [record async for batch in twin.memory.log.replay() for record in batch]


def row(records: list[Recorded], table: str, id: str) -> dict[str, Any]:
    tables = Tables()
    for record in records:  # One by one: nothing may depend on batches.
        tables.write([record])
    at_once = Tables()
    at_once.write(records)
    assert at_once.rows == tables.rows
    return tables.row(table, id)


def test_a_row_goes_from_state_to_state() -> None:
    """What a list shows while it goes on, and the findings at the end."""

    async def story(twin: ChaosTwin) -> None:
        twin.world.answers = lambda now, holding: Answer(value=500 if holding else 200, text="jobs 7, 9")
        await twin.run(document(fault(seconds=5), observe=[probe("status")]), reason="why", call_id="c1")
        await asyncio.sleep(3)
        during = row(await everything(twin), "experiments", "x1")
        assert (during["status"], during["ended_at"], during["reason"]) == ("observing", None, "why")
        await twin.ended()
        after = row(await everything(twin), "experiments", "x1")
        assert (after["status"], after["requested_by"], after["call_id"]) == ("deviated", "ada", "c1")
        assert "jobs 7, 9" in json.loads(after["findings"])[0]["text"]
        assert [item["state"] for item in json.loads(after["faults"])] == ["undone"]
        assert after["recovery_seconds"] is not None
        assert after["ended_at"] is not None

    virtually(story)


def test_a_dry_run_an_abort_and_a_refusal() -> None:
    """Each with its status and why."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(document(), "dry", dry_run=True)
        await twin.run(document(fault(seconds=100)), "long")
        await asyncio.sleep(3)
        await twin.send("long", AbortExperiment(reason="enough"))
        await twin.ended("long")
        await twin.run({"title": "bad"}, "bad")
        records = await everything(twin)
        assert row(records, "experiments", "dry")["status"] == "checked"
        assert (row(records, "experiments", "long")["status"], row(records, "experiments", "long")["cause"]) == (
            "aborted",
            "asked",
        )
        assert (row(records, "experiments", "bad")["status"], row(records, "experiments", "bad")["cause"]) == (
            "refused",
            "invalid-experiment",
        )

    virtually(story)


def test_the_halt_and_what_hosts_can_do() -> None:
    """One row says whether chaos is halted, one a host which faults it can inject."""

    async def story(twin: ChaosTwin) -> None:
        await twin.send(HALT, HaltChaos(reason="incident"))
        store = EntityStore(twin.memory.log, CHAOS_ENTITY, twin.clock)
        found = ChaosCapabilitiesFound(host="there", faults={"kill_service": "no engine"})
        await store.decide(host_entity("there"), Cause(id="found"), lambda state: (found,))
        records = await everything(twin)
        halted = row(records, "chaos", HALT)
        assert (halted["halted"], halted["halted_by"], halted["host"]) == (True, "ada", "")
        assert json.loads(row(records, "chaos", host_entity("there"))["faults"]) == {"kill_service": "no engine"}

    virtually(story)


def test_a_journal_has_the_shape_that_tools_read() -> None:
    """Of the Chaos Toolkit's: steady states, run, rollbacks, times without offset; ours beside it."""

    async def story(twin: ChaosTwin) -> None:
        rollback = {
            "type": "action",
            "name": "tidy",
            "provider": {"type": "compose", "action": "start", "service": "api"},
        }
        steps = (fault(seconds=2), probe("asked", tolerance=204))
        await twin.run({**document(*steps, observe=[probe("status")]), "rollbacks": [rollback]})
        await twin.ended()
        made = journal("x1", await twin.memory.log.load("experiment", "x1"))
        assert (made["status"], made["deviated"]) == ("completed", True)
        assert made["steady_states"]["before"]["steady_state_met"] is True
        assert [(step["activity"]["type"], step["status"]) for step in made["run"]] == [
            ("action", "succeeded"),
            ("probe", "failed"),
        ]
        assert made["run"][0]["activity"]["provider"]["kind"] == "kill_service"
        assert made["run"][1]["tolerance_met"] is False
        assert [item["status"] for item in made["rollbacks"]] == ["succeeded"]
        assert made["start"] < made["end"]
        assert "+" not in made["start"]
        assert made["experiment"]["steady-state-hypothesis"]["title"] == "The API answers"
        assert made["cairn"]["samples"]["status"]["count"] > 0
        json.dumps(made)

    virtually(story)


def test_a_journal_of_what_goes_on() -> None:
    """It has no end yet, and says so."""

    async def story(twin: ChaosTwin) -> None:
        await twin.run(document(fault(seconds=100)))
        await asyncio.sleep(3)
        made = journal("x1", await twin.memory.log.load("experiment", "x1"))
        assert (made["status"], made["end"], made["cairn"]["status"]) == ("running", None, "observing")

    virtually(story)
