"""What every driver of a process shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from events.agents import Agent, ModelAgent
from events.run import Run
from infra.entities import EntityStore
from infra.hosts import Hosts
from infra.ports import Clock, ContentStore, EventLog
from infra.sender import Sender
from services.agent_runner.breakers import Breakers
from services.agent_runner.ports import Model
from services.agent_runner.watch import Watch


@dataclass(frozen=True)
class Plumbing:
    """What every driver of a process shares. ``open_model`` raises ``Permanent`` for an agent that cannot be had;
    ``configured`` gives the agent that has a name now, as far as this host knows."""

    log: EventLog
    runs: EntityStore[Run]
    content: ContentStore
    sender: Sender
    clock: Clock
    watch: Watch
    open_model: Callable[[ModelAgent], Model]
    system_prompt: Callable[[Agent], str]
    configured: Callable[[str], Agent | None]
    host: str
    runner: str
    backoff_seconds: float
    hosts: Hosts
    breakers: Breakers
    snapshots: Path | None = None
