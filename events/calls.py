"""The calls that a log asks for, as the commands that stand for them: derivable again by whoever reads the log."""

from __future__ import annotations

import msgspec

from events import tools
from events.agents import Agent, ProgramAgent
from events.content import Inline
from events.environment import Environment, ExecuteTool
from events.pipeline import EXPERIMENT_GATE
from events.requests import CallRequested
from events.run import Run, ToolCallRequested
from events.task import CheckRequested

# Tools that the runner answers itself.
OF_THE_RUNNER = frozenset({"ask_human", "submit"})

REQUEST_LIMIT_SECONDS = 7200.0


def call_of_run(run: Run, call: ToolCallRequested) -> ExecuteTool:
    """What a call of an agent asks of the environment-manager."""
    assert run.started is not None
    return ExecuteTool(
        call_id=call.call_id,
        run_id=run.id,
        task_id=run.started.task_id,
        tool=call.tool,
        arguments=call.arguments,
        effects=call.effects,
        retry=call.retry,
        time_limit_seconds=run.started.limits.seconds,
        idle_limit_seconds=run.started.limits.idle_seconds,
        secrets=run.started.agent.secrets,
        declared=tools.declared_by(run.started.agent).get(call.tool),
        session_file=session_file(run.started.agent),
        groups=run.started.groups,
    )


def call_of_request(environment: Environment, asked: CallRequested) -> ExecuteTool:
    """What a person's call asks of the environment-manager: every group of tools is open to it."""
    return ExecuteTool(
        call_id=asked.call_id,
        run_id=asked.call_id,
        task_id=environment.prepared.task_id if environment.prepared is not None else "",
        tool=asked.tool,
        arguments=asked.arguments,
        effects=asked.effects,
        retry=asked.retry,
        time_limit_seconds=REQUEST_LIMIT_SECONDS,
        groups=tools.GROUPS,
    )


def session_file(agent: Agent) -> str:
    """Where the agent keeps its own record of the session; empty where it does not say."""
    return agent.session_file if isinstance(agent, ProgramAgent) else ""


def call_of_check(check: CheckRequested, task_id: str) -> ExecuteTool:
    """What a gate asks of the environment-manager: tests, or an experiment."""
    if check.kind == EXPERIMENT_GATE:
        return ExecuteTool(
            call_id=check.check_id,
            run_id=check.check_id,
            task_id=task_id,
            tool=tools.RUN_EXPERIMENT,
            arguments=Inline(msgspec.json.encode({"path": check.command, "fresh": True}).decode()),
            effects="external",
            retry="idempotent",
            time_limit_seconds=check.time_limit_seconds,
            check_stage=check.stage,
            groups=("compose", "faults"),
        )
    return ExecuteTool(
        call_id=check.check_id,
        run_id=check.check_id,
        task_id=task_id,
        tool="shell",
        arguments=Inline(msgspec.json.encode({"command": check.command}).decode()),
        effects="workspace",
        time_limit_seconds=check.time_limit_seconds,
        check_stage=check.stage,
    )
