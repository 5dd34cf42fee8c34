"""Experiments over HTTP: the chaos service itself over real JetStream, with an engine in memory."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from events.environment import ENVIRONMENT, EnvironmentRemoved
from infra.clock import SystemClock
from infra.health import Health
from infra.service import Runtime
from services.chaos.__main__ import Chaos
from tests.gateway_stack import Stack, gateway_stack, projecting
from tests.integration.test_gateway_commands import problem
from tests.unit.chaos_twins import ENVIRONMENT_ID, MemoryFaults, MemoryWorld, document, fault
from tests.unit.environment_twins import PREPARED
from tests.waiting import until

API = "/api/v1"


@contextlib.asynccontextmanager
async def chaos(stack: Stack) -> AsyncIterator[MemoryFaults]:
    """The service of host ``here``, where environment ``shop-1-test`` stands."""
    clock = SystemClock()
    settings = msgspec.structs.replace(
        stack.settings, worker=msgspec.structs.replace(stack.settings.worker, host="here")
    )
    faults = MemoryFaults(clock)
    runtime = Runtime("chaos", settings, stack.jetstream, clock, Health("chaos"))
    await stack.append(ENVIRONMENT.name, ENVIRONMENT_ID, PREPARED)
    service = await Chaos(runtime, faults, MemoryWorld(faults)).start()
    try:
        yield faults
    finally:
        await service.stop()


async def ended(stack: Stack, id: str) -> dict[str, Any]:
    async def row() -> dict[str, Any] | None:
        response = await stack.client.get(f"{API}/experiments/{id}")
        return dict(response.json()) if response.status_code == 200 and response.json()["ended_at"] else None

    found: dict[str, Any] = await until(row, seconds=20.0)
    return found


def body(**changes: Any) -> dict[str, Any]:
    return {"target": ENVIRONMENT_ID, "document": document(fault(seconds=1)), "reason": "before the release", **changes}


async def test_an_experiment_from_request_to_journal(nats_url: str, postgres_url: str, tmp_path: Path) -> None:
    """It is asked for, found in the list, ends with its verdict, and its journal has the Chaos Toolkit's shape."""
    async with gateway_stack(nats_url, tmp_path, postgres_url=postgres_url) as stack, projecting(stack), chaos(stack):
        asked = await stack.client.post(f"{API}/experiments", json=body())
        assert asked.status_code == 201
        id = asked.json()["id"]
        assert asked.headers["location"] == f"{API}/experiments/{id}"
        row = await ended(stack, id)
        assert (row["status"], row["requested_by"], row["host"], row["reason"]) == (
            "completed",
            "local",
            "here",
            "before the release",
        )
        assert (row["faults"][0]["state"], row["faults"][0]["containers"]) == ("undone", ["worker-1", "worker-2"])
        assert row["recovery_seconds"] is not None
        journal = (await stack.client.get(f"{API}/experiments/{id}/journal")).json()
        assert (journal["status"], journal["deviated"]) == ("completed", False)
        assert journal["experiment"]["title"] == "A worker is killed"
        assert journal["steady_states"]["after"]["steady_state_met"] is True
        assert [step["status"] for step in journal["run"]] == ["succeeded"]
        assert journal["cairn"]["faults"][f"{id}-f0"]["reason"] == "ended"
        listed = (await stack.client.get(f"{API}/experiments", params={"target": ENVIRONMENT_ID})).json()["items"]
        assert [item["id"] for item in listed] == [id]


async def test_a_dry_run_says_whom_it_would_hit(nats_url: str, postgres_url: str, tmp_path: Path) -> None:
    """As text in YAML as well; nothing is injected."""
    async with (
        gateway_stack(nats_url, tmp_path, postgres_url=postgres_url) as stack,
        projecting(stack),
        chaos(stack) as faults,
    ):
        text = "title: t\nmethod: " + msgspec.json.encode([fault()]).decode()
        asked = await stack.client.post(f"{API}/experiments", json=body(document=text, dry_run=True))
        answer = asked.json()
        found = await stack.client.get(f"{API}/experiments/{answer['id']}", params={"wait_for": answer["sequence"]})
        assert (found.json()["status"], found.json()["faults"][0]["state"]) == ("checked", "planned")
        assert faults.history == []


async def test_abort_halt_and_resume(nats_url: str, postgres_url: str, tmp_path: Path) -> None:
    """What is under way ends at once, and what is asked for during a halt is refused with its reason."""
    async with gateway_stack(nats_url, tmp_path, postgres_url=postgres_url) as stack, projecting(stack), chaos(stack):
        long = body(document=document(fault(seconds=300)))
        first = (await stack.client.post(f"{API}/experiments", json=long)).json()["id"]
        assert (await stack.client.post(f"{API}/experiments/{first}/abort", json={"reason": "x"})).status_code == 200
        assert (await ended(stack, first))["cause"] == "asked"
        second = (await stack.client.post(f"{API}/experiments", json=long)).json()["id"]
        halted = await stack.client.post(f"{API}/chaos/halt", json={"reason": "incident"})
        assert halted.status_code == 200
        assert (await ended(stack, second))["cause"] == "halted"
        refused = await stack.client.post(f"{API}/experiments", json=body())
        assert "incident" in problem(refused, 409, "halted")["detail"]
        wait = {"wait_for": halted.json()["sequence"]}
        assert (await stack.client.get(f"{API}/chaos", params=wait)).json()["halted"] is True
        resumed = await stack.client.post(f"{API}/chaos/resume", json={})
        wait = {"wait_for": resumed.json()["sequence"]}
        assert (await stack.client.get(f"{API}/chaos", params=wait)).json()["halted"] is False
        problem(await stack.client.post(f"{API}/experiments/nothing/abort", json={}), 404, "not-found")
        problem(await stack.client.get(f"{API}/experiments/nothing/journal"), 404, "not-found")


async def test_what_cannot_be_is_a_problem(nats_url: str, tmp_path: Path) -> None:
    """A document that cannot be read, an environment that is not there, a project that nobody allowed."""
    async with gateway_stack(nats_url, tmp_path) as stack, chaos(stack):
        bad = await stack.client.post(f"{API}/experiments", json=body(document={"title": "t", "methods": []}))
        assert "Did you mean method?" in problem(bad, 422, "invalid-experiment")["detail"]
        problem(await stack.client.post(f"{API}/experiments", json=body(target="shop-9-test")), 404, "not-found")
        problem(await stack.client.post(f"{API}/experiments", json=body(target="a b")), 404, "not-found")
        asked = body(target="compose:shop", host="here")
        problem(await stack.client.post(f"{API}/experiments", json=asked), 409, "target-not-allowed")
        problem(await stack.client.post(f"{API}/experiments", json=body(target="compose:shop")), 503, "host-needed")
        await stack.append(ENVIRONMENT.name, ENVIRONMENT_ID, EnvironmentRemoved())
        problem(await stack.client.post(f"{API}/experiments", json=body()), 404, "target-missing")


async def test_the_same_key_is_the_same_experiment(nats_url: str, tmp_path: Path) -> None:
    """Sent again after a lost answer, it does not run twice."""
    async with gateway_stack(nats_url, tmp_path) as stack, chaos(stack) as faults:
        key = {"Idempotency-Key": "once"}
        first = await stack.client.post(f"{API}/experiments", json=body(), headers=key)
        second = await stack.client.post(f"{API}/experiments", json=body(), headers=key)
        assert first.json()["id"] == second.json()["id"]
        await until(lambda: len(faults.history) >= 2)
        assert [what for what, _, _ in faults.history] == ["inject", "undo"]
