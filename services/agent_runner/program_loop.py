"""Any command as an agent: one call, executed under the shim. Its output is the log, its exit code the result."""

from __future__ import annotations

import msgspec

from events.agents import ProgramAgent
from events.environment import ToolCallCompleted, ToolCallFailed
from events.run import RunCrashed, RunFellSilent, RunRefused, RunStarved, RunSucceeded, RunTimedOut
from infra.ports import read_content, store_content
from services.agent_runner.causes import classify
from services.agent_runner.deciders import run as decider
from services.agent_runner.driver import Driver
from services.agent_runner.ending import Ending
from services.agent_runner.provider import Provider

DETAIL_CHARACTERS = 2000


async def work(driver: Driver) -> None:
    assert driver.run.started is not None
    agent = driver.run.started.agent
    assert isinstance(agent, ProgramAgent)
    arguments = msgspec.json.encode({"argv": agent.command, "prompt": driver.command.prompt}).decode()
    content = await store_content(driver.plumbing.content, arguments)
    await driver.decide(lambda run: decider.request_program(run, driver.epoch, content))
    provider = Provider(driver, agent)
    await driver.results()
    call = driver.run.calls[0]
    ended = driver.history.call_end(call.call_id)
    limits = driver.command.limits
    if isinstance(ended, ToolCallCompleted):
        text = await read_content(driver.plumbing.content, ended.content)
        tail = text[-DETAIL_CHARACTERS:].strip()
        if ended.exit_code == 0:
            commit = driver.history.environment.checkpoint
            await provider.answered()
            raise Ending(RunSucceeded(summary=tail, commit=commit))
        await _end_by_provider(provider, text)
        raise Ending(RunCrashed(exit_code=ended.exit_code, detail=tail))
    if isinstance(ended, ToolCallFailed) and ended.cause == "timed-out":
        raise Ending(RunTimedOut(limit_seconds=limits.seconds))
    if isinstance(ended, ToolCallFailed) and ended.cause == "idle":
        raise Ending(RunFellSilent(limit_seconds=limits.idle_seconds))
    result = driver.history.conversation.result_of(call.call_id)
    raise Ending(RunCrashed(exit_code=None, detail=result.note if result is not None else "it was interrupted"))


async def _end_by_provider(provider: Provider, log: str) -> None:
    """End the run where what ended its program was the provider; what the program could not get, time may bring."""
    fault = classify(log)
    if fault is None:
        return
    if fault.is_transient:
        await provider.flinched(cause=fault.cause, detail=fault.detail, retry_after_seconds=0.0)
        raise Ending(RunStarved(failures=1, cause=fault.cause, detail=fault.detail))
    await provider.answered()
    raise Ending(RunRefused(cause=fault.cause, detail=fault.detail))
