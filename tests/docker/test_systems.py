"""Composed systems with a real engine: brought up, looked at, worked in, broken, and taken down."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from events.environment import ToolCallCompleted
from infra.docker.engine import Engine
from tests.composing import WEB, Composing, composing

pytestmark = pytest.mark.integration


@pytest.fixture
async def environment(engine: Engine, tmp_path: Path) -> AsyncIterator[Composing]:
    async with composing(tmp_path) as environment:
        yield environment


def get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        return str(answer.read().decode())


async def test_a_system_goes_up_is_worked_in_and_goes_down(environment: Composing) -> None:
    """Up, status, exec, logs, restart and down; the log holds what was seen."""
    environment.write("compose.yaml", WEB)
    ended, text = await environment.call("compose_up")
    assert isinstance(ended, ToolCallCompleted), text
    port = await environment.port()
    assert "compose.yaml is up" in text
    assert f"127.0.0.1:{port} -> 80/tcp" in text
    assert "Directory listing" in await asyncio.to_thread(get, port)
    for tool, arguments, says in (
        ("compose_status", {}, "running, healthy"),
        ("compose_exec", {"service": "web", "command": "echo $((40 + 2)); exit 3"}, "42"),
        ("tail_logs", {"service": "web", "lines": 5}, "GET / HTTP/1.1"),
        ("restart_service", {"service": "web"}, "Restarted"),
        ("compose_up", {}, "compose.yaml is up"),
        ("compose_down", {"volumes": True}, "The system is down (1 containers)"),
    ):
        ended, text = await environment.call(tool, **arguments)
        assert isinstance(ended, ToolCallCompleted), text
        assert says in text, tool
        if tool != "compose_down":
            assert await environment.port() == port
    assert (await environment.state()).system is None
    assert await environment.compose.leftover() == set()
