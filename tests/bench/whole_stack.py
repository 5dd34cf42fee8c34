"""The whole of Cairn as ``cairn up`` starts it, with scripted agents: every process real, every write synced."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.embedded import stack_file
from infra.embedded.stack import Stack
from infra.settings import Nats, Settings, load
from services.command_line.client import Gateway
from tests.bench import worker

PROJECT = "bench"
START_SECONDS = 60.0
SUBMIT = {"calls": [{"tool": "submit", "arguments": {"summary": "Done."}}]}

Turns = list[dict[str, Any]]


@contextlib.contextmanager
def whole_stack(home: Path, agents: Mapping[str, Turns]) -> Iterator[tuple[Gateway, Settings]]:
    """Its gateway, and settings by which a client finds its NATS. It has one project, on a small repository."""
    repository = worker.repository(home / "repository")
    stack = Stack(home / ".cairn", load(_settings_file(home, agents)), settings_file=home / "cairn.toml")
    try:
        stack.start()
        unready = stack.supervisor.wait_until_ready(START_SECONDS)
        if unready:
            raise RuntimeError(f"not ready: {', '.join(unready)}")
        running = stack_file.read(home / ".cairn")
        assert running is not None
        with Gateway(stack.url, (home / ".cairn" / "key").read_text(encoding="utf-8").strip()) as gateway:
            project = {"name": PROJECT, "repository": {"url": str(repository)}, "test_command": "true"}
            gateway.post("/projects", {**project, "agents_at_once": 5})
            yield gateway, Settings(nats=Nats(url=running.nats_url))
    finally:
        stack.stop()


def submit(gateway: Gateway, agent: str) -> str:
    """A task for this agent; answers its id."""
    return str(gateway.post(f"/projects/{PROJECT}/tasks", {"title": "Bench", "agent": agent})["id"])


def _settings_file(home: Path, agents: Mapping[str, Turns]) -> Path:
    lines = ["[gateway]", "port = 0", "[scheduling]", "agents_at_once = 64", "[telemetry]", 'log_level = "warning"']
    lines += ["[worker]", 'isolation = "worktree"']  # The same with an engine and without.
    for name, turns in agents.items():
        (home / f"{name}.json").write_text(json.dumps({"turns": turns}), encoding="utf-8")
        lines += [f"[agents.{name}]", 'kind = "model"', 'provider = "scripted"', f'transcript = "{name}.json"']
    path = home / "cairn.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
