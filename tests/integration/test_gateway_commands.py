"""Commands over HTTP: what becomes of them, who may send them, and every way to send them badly."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from events.task import SubmitTask
from services.gateway import schemas
from tests.gateway_stack import gateway_stack, scheduler
from tests.nats_server import NatsServer
from tests.waiting import until

PROJECT = {"name": "shop", "repository": {"url": "/srv/shop"}}
API = "/api/v1"


def problem(response: httpx2.Response, status: int, slug: str) -> dict[str, Any]:
    """The problem in a response, which must be one of that status and slug."""
    assert status == response.status_code, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert slug == body["slug"]
    assert f"urn:cairn:problem:{slug}" == body["type"]
    assert status == body["status"]
    assert body["detail"]
    assert body["title"]
    assert "Traceback" not in response.text
    return body


async def test_commands_answer_with_their_outcome(nats_url: str, tmp_path: Path) -> None:
    """A command is sent with its actor and trace, and the answer names what was decided."""
    async with gateway_stack(nats_url, tmp_path) as stack, scheduler(stack) as seen:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        added = await stack.client.post(f"{API}/projects", json=PROJECT, headers={"traceparent": trace})
        assert added.status_code == 201
        assert added.headers["location"] == "/api/v1/projects/shop"
        assert (added.json()["id"], added.json()["outcome"]) == ("shop", "accepted")
        assert added.json()["sequence"] > 0
        assert ("local", "shop", trace[3:35]) == (seen[0].actor, seen[0].entity_id, seen[0].trace[3:35])

        body = {"title": "Mend the total", "depends_on": ["shop-0"], "budget": {"steps": 3}, "priority": 2}
        submitted = await stack.client.post(f"{API}/projects/shop/tasks", json=body)
        assert submitted.status_code == 201
        assert submitted.headers["location"] == "/api/v1/tasks/shop-1"
        assert (submitted.json()["entity"], submitted.json()["entity_id"]) == ("task", "shop-1")
        command = seen[1].command
        assert isinstance(command, SubmitTask)
        assert (seen[1].entity, seen[1].entity_id) == ("project", "shop")
        assert command.specification.depends_on == ("shop-0",)
        assert command.specification.budget is not None
        assert command.specification.budget.steps == 3

        cancelled = await stack.client.post(f"{API}/tasks/shop-1/cancel", json={"reason": "not needed"})
        assert cancelled.status_code == 200
        assert cancelled.json()["events"] == ["TaskCancelled"]


async def test_rejections_are_problems(nats_url: str, tmp_path: Path) -> None:
    """A decider's no keeps its slug, status and message."""
    async with gateway_stack(nats_url, tmp_path) as stack, scheduler(stack):
        unknown = await stack.client.post(f"{API}/projects/nowhere/tasks", json={"title": "x"})
        assert problem(unknown, 404, "unknown-project")["detail"] == "there is no project 'nowhere'."
        problem(await stack.client.post(f"{API}/tasks/shop-1/retry"), 409, "not-now")
        problem(await stack.client.post(f"{API}/tasks/shop-1/stages/test/approve"), 409, "not-now")


async def test_unknown_outcome_is_said(nats_url: str, tmp_path: Path) -> None:
    """With nobody to decide in time the answer is 202, says where to look, and the command is still done later."""
    async with gateway_stack(nats_url, tmp_path, outcome_timeout_seconds=0.2) as stack:
        response = await stack.client.post(f"{API}/tasks/shop-1/cancel", json={})
        assert response.status_code == 202
        assert response.headers["location"] == "/api/v1/tasks/shop-1"
        assert response.json()["outcome"] == "pending"
        async with scheduler(stack) as seen:
            await until(lambda: seen)
        assert response.json()["command_id"] == seen[0].id


async def test_idempotency_key(nats_url: str, tmp_path: Path) -> None:
    """The same request with the same key is done once and answered alike, at once or later; another one is refused."""
    async with gateway_stack(nats_url, tmp_path) as stack, scheduler(stack) as seen:
        headers = {"Idempotency-Key": "k1"}
        answers = await asyncio.gather(
            *(stack.client.post(f"{API}/projects", json=PROJECT, headers=headers) for _ in range(3))
        )
        again = await stack.client.post(f"{API}/projects", json=PROJECT, headers=headers)
        assert {201} == {answer.status_code for answer in (*answers, again)}
        assert len({answer.text for answer in (*answers, again)}) == 1
        assert len(seen) == 1
        other = await stack.client.post(f"{API}/projects", json={**PROJECT, "max_attempts": 5}, headers=headers)
        assert other.status_code == 201 or problem(other, 422, "idempotency-key-reused")
        problem(
            await stack.client.post(f"{API}/projects", json=PROJECT, headers={"Idempotency-Key": "x" * 300}),
            422,
            "invalid-idempotency-key",
        )


async def test_keys(nats_url: str, tmp_path: Path) -> None:
    """Without a known key nothing under /api/ answers; a revoked one stops at once; the rest needs none."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}):
            async with httpx2.AsyncClient(base_url=stack.url, headers=headers, trust_env=False) as stranger:
                for path in ("/tasks", "/board/stream", "/no-such-thing"):
                    refused = await stranger.get(API + path)
                    assert "key" in problem(refused, 401, "unauthorized")["detail"]
                    assert refused.headers["www-authenticate"].startswith("Bearer")
                for path in ("/", "/health", "/ready", "/metrics", "/openapi.json"):
                    assert (await stranger.get(path)).status_code == 200
        assert (await stack.client.get(f"{API}/dead-letters")).status_code == 200
        (tmp_path / "keys.json").write_text("{}")
        problem(await stack.client.get(f"{API}/dead-letters"), 401, "unauthorized")
        (tmp_path / "keys.json").write_text("{not json")
        problem(await stack.client.get(f"{API}/dead-letters"), 503, "keys-unreadable")


async def test_bad_bodies(nats_url: str, tmp_path: Path) -> None:
    """What cannot be understood is answered with where the mistake is."""
    async with gateway_stack(nats_url, tmp_path, max_body_bytes=2000) as stack:
        client = stack.client
        json_type = {"Content-Type": "application/json"}
        broken = await client.post(f"{API}/projects", content='{"name": "shop",\n "x": }', headers=json_type)
        assert "line 2, column 7" in problem(broken, 400, "malformed-json")["detail"]
        strict = await client.post(f"{API}/projects", json={**PROJECT, "agents_at_once": "3", "colour": "red"})
        found = problem(strict, 422, "invalid")["errors"]
        assert {"#/agents_at_once", "#/colour"} == {item["pointer"] for item in found}
        for wrong in ({**PROJECT, "max_attempts": False}, {"name": "shop"}, [], None, {**PROJECT, "name": "a\x00b"}):
            problem(await client.post(f"{API}/projects", json=wrong), 422, "invalid")
        problem(await client.post(f"{API}/projects", json={**PROJECT, "name": "a.b > *"}), 422, "invalid-name")
        pipeline = {"name": "p", "stages": [{"name": "a", "gate": {"kind": "no-such"}}]}
        unknown = await client.post(f"{API}/projects", json={**PROJECT, "pipeline": pipeline})
        assert "$.stages[0].gate" in problem(unknown, 422, "invalid")["detail"]
        problem(await client.post(f"{API}/projects", content=b"name=shop"), 415, "unsupported-media-type")
        problem(await client.post(f"{API}/projects", content=b'{"name": "\xff"}', headers=json_type), 400, "malformed")
        deep = await client.post(f"{API}/projects", content=b"[" * 1900, headers=json_type)
        problem(deep, 400, "malformed")


async def test_oversized_bodies(nats_url: str, tmp_path: Path) -> None:
    """A body over the limit is refused by its length, and by its growth where it is sent in chunks."""

    async def chunks() -> Any:
        for _ in range(50):
            yield b'"' + b"x" * 1000 + b'"'

    async with gateway_stack(nats_url, tmp_path, max_body_bytes=5000) as stack:
        large = {"title": "x" * 6000}
        problem(await stack.client.post(f"{API}/projects/shop/tasks", json=large), 413, "body-too-large")
        headers = {"Content-Type": "application/json"}
        chunked = await stack.client.post(f"{API}/projects/shop/tasks", content=chunks(), headers=headers)
        assert "5000 bytes" in problem(chunked, 413, "body-too-large")["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", "/nowhere", 404, "no-such-route"),
        ("GET", f"{API}/nowhere", 404, "no-such-route"),
        ("DELETE", f"{API}/tasks", 405, "method-not-allowed"),
        ("POST", f"{API}/tasks/a.b/retry", 404, "not-found"),
        ("POST", f"{API}/tasks/%3E/retry", 404, "not-found"),
        ("GET", f"{API}/events?limit=0", 422, "invalid"),
        ("GET", f"{API}/events?id=shop-1", 422, "invalid"),
        ("GET", f"{API}/events?task=a&run=b", 422, "invalid"),
        ("GET", f"{API}/events?entity=ghost", 404, "not-found"),
        ("GET", f"{API}/replay/ghost/x", 404, "not-found"),
        ("GET", f"{API}/replay/task/x", 404, "not-found"),
        ("GET", f"{API}/runs/shop-1-development-1/stream", 404, "not-found"),
        ("GET", f"{API}/runs/shop-1-development-1/output/stream", 404, "not-found"),
        ("GET", f"{API}/dead-letters/77", 404, "not-found"),
        ("GET", f"{API}/dead-letters/x", 422, "invalid"),
        ("POST", f"{API}/dead-letters/77/resend", 404, "not-found"),
        ("GET", f"{API}/content/zz", 422, "invalid"),
        ("GET", f"{API}/content/{'0' * 64}", 404, "not-found"),
        ("GET", f"{API}/tasks", 503, "postgres-unset"),
    ],
)
async def test_bad_addresses(nats_url: str, tmp_path: Path, method: str, path: str, status: int, slug: str) -> None:
    """Every address that leads nowhere, and every parameter that means nothing, is answered with a problem."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        problem(await stack.client.request(method, path), status, slug)


async def test_nats_away(tmp_path: Path) -> None:
    """While NATS is away commands and reads of the log answer 503 soon and say when to try again; then they work."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    try:
        async with gateway_stack(server.url, tmp_path / "home") as stack, scheduler(stack):
            server.kill()
            began = asyncio.get_running_loop().time()
            answers = await asyncio.gather(
                stack.client.post(f"{API}/projects", json=PROJECT),
                stack.client.get(f"{API}/events"),
            )
            for answer in answers:
                problem(answer, 503, "unavailable")
                assert int(answer.headers["retry-after"]) >= 1
            assert asyncio.get_running_loop().time() - began < 9.0
            assert (await stack.client.get("/health")).status_code == 200
            server.start()
            added = await stack.client.post(f"{API}/projects", json=PROJECT)
            assert added.status_code == 201, added.text
    finally:
        server.stop()


async def test_openapi(nats_url: str, tmp_path: Path) -> None:
    """Every command has an example that its own model takes, every operation tells of problems and the key."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        document = (await stack.client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"]
            assert "422" not in operation["responses"]
            assert path.startswith("/api/") == ("security" in operation)
            reference = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if reference:
                name = reference["$ref"].rpartition("/")[2]
                (example,) = document["components"]["schemas"][name]["examples"]
                getattr(schemas, name).model_validate(example)
    assert "https://" not in (str(document["paths"]))
