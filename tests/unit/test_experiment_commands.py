"""Commands of probes as calls of the environment: asked for until they have ended, and what their ends mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from events.content import Inline
from events.envelope import CommandEnvelope
from events.environment import (
    ENVIRONMENT,
    CallEnd,
    ExecuteTool,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallInterrupted,
)
from events.errors import Permanent
from infra.entities import Cause, EntityStore
from infra.memory.plumbing import Memory
from infra.sender import Sender
from services.chaos.commands import EnvironmentCommands
from services.chaos.document import Command
from services.chaos.tolerances import Answer
from tests.simulation.loop import VirtualLoop
from tests.unit.chaos_twins import ENVIRONMENT_ID, LoopClock


class Bus:
    """Hands what is cast to ``take``, which may lose it."""

    def __init__(self, take: Callable[[CommandEnvelope], None]) -> None:
        self._take = take

    def cast(self, service: str, target: str, envelope: CommandEnvelope) -> None:
        assert (service, target) == ("environment-manager", "here")
        self._take(envelope)


def ask(take: Callable[[EntityStore[Any], ExecuteTool], Coroutine[Any, Any, None]]) -> Answer:
    """What a probe's command comes to, where ``take`` is the environment-manager."""
    tasks: set[asyncio.Task[None]] = set()

    async def story() -> Answer:
        clock = LoopClock()
        memory = Memory(clock=clock)
        store = EntityStore(memory.log, ENVIRONMENT, clock)

        def cast(envelope: CommandEnvelope) -> None:
            assert isinstance(envelope.command, ExecuteTool)
            tasks.add(asyncio.ensure_future(take(store, envelope.command)))

        sender = Sender(Bus(cast), clock, tenant="default", name="chaos")  # type: ignore[arg-type]
        commands = EnvironmentCommands(memory.log, sender, memory.content, clock, "here")
        following = await commands.start()
        try:
            return await commands.run(ENVIRONMENT_ID, "x1", "x1-p1", Command(command="jobs check", timeout=7))
        finally:
            await following.close()

    return VirtualLoop().finish(story())


async def end(store: EntityStore[Any], ended: CallEnd) -> None:
    await store.decide(ENVIRONMENT_ID, Cause(id="end"), lambda state: (ended,))


def completed(call: ExecuteTool, code: int, text: str) -> ToolCallCompleted:
    return ToolCallCompleted(
        call_id=call.call_id, run_id=call.run_id, tool="shell", duration_ms=1, content=Inline(text), exit_code=code
    )


def test_the_exit_code_and_the_output_are_the_answer() -> None:
    """It is a call without effects, beside whatever the environment does, with the probe's own limit of time."""
    seen: list[ExecuteTool] = []

    async def take(store: EntityStore[Any], call: ExecuteTool) -> None:
        seen.append(call)
        await end(store, completed(call, 1, "jobs 7, 9 are lost"))

    assert ask(take) == Answer(value=1, text="jobs 7, 9 are lost", failed=True)
    (call,) = seen
    assert isinstance(call.arguments, Inline)
    assert msgspec.json.decode(call.arguments.text)["command"] == "jobs check"
    assert (call.effects, call.time_limit_seconds, call.run_id) == ("none", 7, "x1")


def test_what_gets_lost_is_sent_again() -> None:
    """Under the same call id, so that it is executed once."""
    seen: list[str] = []

    async def take(store: EntityStore[Any], call: ExecuteTool) -> None:
        seen.append(call.call_id)
        if len(seen) == 3:
            await end(store, completed(call, 0, "fine"))

    assert ask(take) == Answer(value=0, text="fine")
    assert seen == ["x1-p1"] * 3


@pytest.mark.parametrize("kind", ["failed", "interrupted"])
def test_a_command_that_did_not_end_by_itself_is_no_answer(kind: str) -> None:
    """The reason is said."""

    async def take(store: EntityStore[Any], call: ExecuteTool) -> None:
        ends: dict[str, CallEnd] = {
            "failed": ToolCallFailed(
                call_id=call.call_id, run_id="x1", tool="shell", cause="timed-out", detail="too slow"
            ),
            "interrupted": ToolCallInterrupted(call_id=call.call_id, run_id="x1", tool="shell", reason="too slow"),
        }
        await end(store, ends[kind])

    with pytest.raises(Permanent, match="too slow"):
        ask(take)
