"""Whether an agent is still what a run began with: prompt, tools and model, compared as text. Pure."""

from __future__ import annotations

import difflib
import hashlib

import msgspec

from events.agents import ModelAgent
from events.run import Run
from services.agent_runner.ports import Configuration


class Difference(msgspec.Struct, frozen=True):
    """``expected`` and ``found`` each name a configuration in a line, ``diff`` is the unified diff between them."""

    expected: str
    found: str
    diff: str


def difference(run: Run, present: Configuration) -> Difference | None:
    """What differs between the configuration that the run works with and the ``present`` one; None where nothing
    does, or where it was chosen before to go on without what is configured now."""
    if run.started is None:
        return None
    recorded = Configuration(agent=run.started.agent, system=run.started.system, tools=run.started.tools)
    before, after = _text(recorded), _text(present)
    found = _named(present, after)
    if before == after or found in run.waived:
        return None
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "recorded", "configured", lineterm="")
    return Difference(_named(recorded, before), found, "".join(f"{line}\n" for line in lines))


def _text(configuration: Configuration) -> str:
    """Everything that changes how the agent goes on. Keys, prices and limits do not."""
    agent = configuration.agent
    if not isinstance(agent, ModelAgent):
        return f"command: {' '.join(agent.command)}\n"
    tools = "".join(f"tool: {name}{_declared(agent, name)}\n" for name in configuration.tools)
    return (
        f"provider: {agent.provider}\nmodel: {agent.model}\nbase_url: {agent.base_url}\n"
        f"{tools}\n{configuration.system}\n"
    )


def _declared(agent: ModelAgent, name: str) -> str:
    """What the agent's description says of a tool of its own."""
    return f" {msgspec.json.encode(agent.tools[name]).decode()}" if name in agent.tools else ""


def _named(configuration: Configuration, text: str) -> str:
    agent = configuration.agent
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    if isinstance(agent, ModelAgent):
        what = " ".join(filter(None, (agent.provider, agent.model)))
        return f"{what} with {len(configuration.tools)} tools, configuration {digest}"
    return f"{agent.command[0] if agent.command else 'no command'}, configuration {digest}"
