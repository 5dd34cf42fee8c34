"""``GET /status``: what a power failure can take, who is there, and what cannot be seen at the moment."""

from __future__ import annotations

from pathlib import Path

from tests.gateway_stack import gateway_stack, projecting, scheduler
from tests.integration.test_gateway_queries import API
from tests.waiting import until


async def test_status_says_what_it_can_see(nats_url: str, tmp_path: Path) -> None:
    """Nobody said how NATS syncs, and there are no read models: both are said, and the rest answers all the same."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        stack.jetstream.hosts.announce("worker-1")
        found: dict[str, object] = {}

        async def ask() -> bool:
            answer = await stack.client.get(f"{API}/status")
            assert answer.status_code == 200, answer.text
            found.update(answer.json())
            return bool(found["hosts"])

        await until(ask)
        durability = found["durability"]
        assert isinstance(durability, dict)
        assert (durability["level"], durability["loss_window_seconds"], durability["known_by"]) == (
            "unknown",
            None,
            "nobody",
        )
        assert isinstance(found["hosts"], dict)
        assert found["hosts"]["worker-1"] < 15.0
        assert found["queue"] is None
        assert found["runs_held"] == []
        assert found["log"] == 0


async def test_which_services_are_at_work(nats_url: str, postgres_url: str, tmp_path: Path) -> None:
    """A service that takes commands, and a projector, are seen while they are there and missed when they are gone."""
    async with gateway_stack(nats_url, tmp_path, postgres_url=postgres_url) as stack:

        async def tells(expected: dict[str, bool]) -> bool:
            return bool((await stack.client.get(f"{API}/status")).json()["services"] == expected)

        async def until_told(expected: dict[str, bool]) -> None:
            await until(lambda: tells(expected), seconds=20.0)

        await stack.request_run("shop-1")
        await until_told({"projector": False})
        async with scheduler(stack), projecting(stack):
            await until_told({"projector": True, "scheduler": True})
        await until_told({"projector": True, "scheduler": False})
        await stack.request_run("shop-2")
        await until_told({"projector": False, "scheduler": False})
