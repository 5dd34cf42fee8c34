"""Health: the three paths over real sockets, and a port that is taken."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from events.errors import Permanent
from events.task import TaskCompleted
from infra import metrics
from infra.health import PORT_OFF, Health
from infra.settings import Telemetry


@asynccontextmanager
async def serving() -> AsyncIterator[Health]:
    health = Health("scheduler")
    await health.serve(Telemetry())
    try:
        yield health
    finally:
        await health.close()


async def exchange(health: Health, request: bytes) -> tuple[int, str]:
    """The status and body of the answer to a raw request; status 0 where there was none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(health.url.rpartition(":")[2]))
    writer.write(request)
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split(" ")[1]) if head else 0, body


async def get(health: Health, path: str) -> tuple[int, str]:
    return await exchange(health, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def test_health_is_whether_the_process_lives() -> None:
    """/health does not depend on any condition."""
    async with serving() as health:
        health.condition("nats", False, "away")
        status, body = await get(health, "/health")
    assert (status, json.loads(body)) == (200, {"status": "ok", "service": "scheduler"})


async def test_ready_lists_what_is_missing() -> None:
    """/ready is 503 with each condition that is not met and why, and 200 when all are."""
    away = "not connected"
    async with serving() as health:
        health.condition("started", False)
        health.probe("nats", lambda: away)
        status, body = await get(health, "/ready?verbose")
        assert (status, json.loads(body)["unmet"]) == (503, {"started": "not met", "nats": "not connected"})
        health.condition("started", True)
        away = ""
        assert (
            (await get(health, "/ready"))[0],
            {"status": "ready", "unmet": {}},
        ) == (200, {"status": "ready", "unmet": {}})


async def test_metrics_are_prometheus_text() -> None:
    """What was counted is told with its labels."""
    metrics.observe_command("scheduler")("SubmitTask", 0.002, "handled")
    metrics.watch_in_flight("scheduler", "queue-1", lambda: 3)
    metrics.count_dead_letter("scheduler", "undecodable")
    metrics.count_events("task", [TaskCompleted()])
    async with serving() as health:
        status, body = await get(health, "/metrics")
    assert status == 200
    assert 'cairn_commands_handled_total{command="SubmitTask",result="handled",service="scheduler"} 1.0' in body
    assert 'cairn_commands_in_flight{queue="queue-1",service="scheduler"} 3.0' in body
    assert 'cairn_dead_letters_total{reason="undecodable",service="scheduler"} 1.0' in body
    assert 'cairn_events_appended_total{entity="task",event="TaskCompleted"} 1.0' in body
    assert "process_resident_memory_bytes" in body


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /elsewhere HTTP/1.1\r\n\r\n", 404),
        (b"POST /health HTTP/1.1\r\n\r\n", 405),
        (b"\x00\xff\r\n\r\n", 405),
        (b"GET /" + b"a" * 100_000 + b"\r\n\r\n", 0),
    ],
)
async def test_a_bad_request_harms_nobody(request_bytes: bytes, status: int) -> None:
    """Unknown paths, methods, junk and endless headers are turned away, and the next request is answered."""
    async with serving() as health:
        assert status == (await exchange(health, request_bytes))[0]
        assert (await get(health, "/health"))[0] == 200


async def test_a_port_in_use_is_named() -> None:
    """The message says which port, and what to set instead."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Permanent, match=f"127.0.0.1:{port} is in use: set telemetry.health_port"):
            await Health("scheduler").serve(Telemetry(health_port=port))


async def test_it_can_be_switched_off() -> None:
    """With -1 nothing listens."""
    health = Health("scheduler")
    await health.serve(Telemetry(health_port=PORT_OFF))
    assert health.url == ""
    await health.close()
