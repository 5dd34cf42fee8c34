"""The built-in agent: ask the model, execute what it asks for, until it submits."""

from __future__ import annotations

import asyncio
import random

from events import tools
from events.agents import ModelAgent
from events.conversation import AssistantTurn
from events.errors import Permanent
from events.run import RunRefused, RunSucceeded, ToolCallRequested
from infra import semantics, telemetry
from infra.ports import read_content, store_content
from services.agent_runner.deciders import run as decider
from services.agent_runner.driver import Driver
from services.agent_runner.ending import Ending
from services.agent_runner.ports import Model, ModelAnswer, ModelRequest, ModelUnavailable
from services.agent_runner.provider import Provider


async def work(driver: Driver) -> None:
    """One turn after another. Every turn begins from what the log holds, so a resume needs no case of its own."""
    assert driver.run.started is not None
    agent = driver.run.started.agent
    assert isinstance(agent, ModelAgent)
    try:
        model = driver.plumbing.open_model(agent)
    except Permanent as error:
        raise Ending(RunRefused(cause=error.slug, detail=str(error))) from error
    provider = Provider(driver, agent)
    while True:
        await driver.results()
        submitted = _submitted(driver)
        if submitted is not None:
            raise Ending(RunSucceeded(summary=await _summary(driver, submitted), commit=_commit(driver)))
        spent = decider.over_budget(driver.run)
        if spent is not None:
            raise Ending(spent)
        if _stopped_without_a_call(driver):
            await driver.decide(lambda run: decider.remind(run, driver.epoch))
            _end_if_ended(driver)
        await _wait_for_retry(driver)
        await provider.may_call()
        await _turn(driver, agent, model, provider)


async def _turn(driver: Driver, agent: ModelAgent, model: Model, provider: Provider) -> None:
    began = asyncio.get_running_loop().time()
    with telemetry.span(
        f"chat {agent.model or agent.provider}",
        attributes={semantics.GEN_AI_OPERATION_NAME: "chat", semantics.GEN_AI_REQUEST_MODEL: agent.model},
    ) as span:
        try:
            answer = await driver.interruptible(
                lambda: model.respond(_request(driver, agent)), limit_seconds=driver.command.limits.idle_seconds
            )
        except ModelUnavailable as error:
            span.fail(str(error))
            unavailable = error
            await provider.flinched(
                cause=error.cause, detail=str(error), retry_after_seconds=error.retry_after_seconds or 0.0
            )
            await driver.decide(
                lambda run: decider.postpone(
                    run,
                    driver.epoch,
                    cause=unavailable.cause,
                    detail=str(unavailable),
                    retry_after_seconds=unavailable.retry_after_seconds,
                    backoff_seconds=driver.plumbing.backoff_seconds,
                    jitter=random.random(),
                    now=driver.plumbing.clock.now(),
                )
            )
            _end_if_ended(driver)
            return
        except Permanent as error:
            await provider.answered()
            raise Ending(RunRefused(cause=error.slug, detail=str(error))) from error
    assert isinstance(answer, ModelAnswer)
    await provider.answered()
    requested = [
        decider.Requested(asked=call, arguments=await store_content(driver.plumbing.content, call.arguments))
        for call in answer.calls
    ]
    cost_usd = agent.price.cost_usd(
        input=answer.input_tokens,
        output=answer.output_tokens,
        cache_read=answer.cache_read_tokens,
        cache_write=answer.cache_write_tokens,
    )
    duration_ms = round((asyncio.get_running_loop().time() - began) * 1000)
    await driver.decide(
        lambda run: decider.respond(run, driver.epoch, answer, requested, cost_usd=cost_usd, duration_ms=duration_ms)
    )


def _request(driver: Driver, agent: ModelAgent) -> ModelRequest:
    started = driver.run.started
    assert started is not None

    return ModelRequest(
        system=started.system,
        messages=driver.history.conversation.messages,
        tools=tools.offered_to(agent, started.groups),
        read=driver.text_of,
        max_output_tokens=agent.max_output_tokens,
        turn=driver.history.conversation.turns,
        stage=started.stage,
        attempt=started.attempt,
    )


def _submitted(driver: Driver) -> ToolCallRequested | None:
    return next(
        (call for call in driver.run.calls if call.tool == "submit" and call.call_id not in driver.run.refused), None
    )


async def _summary(driver: Driver, call: ToolCallRequested) -> str:
    arguments = tools.decode_arguments(call.tool, await read_content(driver.plumbing.content, call.arguments))
    assert isinstance(arguments, tools.Submit)
    return arguments.summary


def _commit(driver: Driver) -> str:
    return driver.history.environment.checkpoint


def _stopped_without_a_call(driver: Driver) -> bool:
    messages = driver.history.conversation.messages
    return bool(messages) and isinstance(messages[-1], AssistantTurn)


def _end_if_ended(driver: Driver) -> None:
    """The decider may end the run instead; then there is nothing more to do."""
    if driver.run.ended is not None:
        raise Ending(driver.run.ended)


async def _wait_for_retry(driver: Driver) -> None:
    retry_at = driver.run.retry_at
    if retry_at is not None:
        seconds = (retry_at - driver.plumbing.clock.now()).total_seconds()
        if seconds > 0:
            await driver.interruptible(lambda: driver.plumbing.clock.sleep(seconds), limit_seconds=seconds + 60.0)
