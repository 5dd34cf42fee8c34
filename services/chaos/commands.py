"""Commands of probes, executed as calls of the environment: its environment-manager knows workspace, limits, secrets
and redaction, and the log holds what was run and what it printed.

The calls have no effects by declaration, so that they run beside whatever the environment does. What gets lost on the
way is sent again until its end is in the log.
"""

from __future__ import annotations

import asyncio

import msgspec

from events import subjects
from events.content import Inline
from events.envelope import Recorded
from events.environment import ENVIRONMENT, CallEnd, ExecuteTool, ToolCallCompleted
from events.errors import Permanent
from infra.entities import Cause
from infra.ports import Clock, ContentStore, EventLog, Following, read_content
from infra.sender import Sender
from services.chaos.document import Command
from services.chaos.tolerances import Answer

AGAIN_SECONDS = 5.0


class EnvironmentCommands:
    """``ports.Commands`` over the environment-manager of this host."""

    def __init__(self, log: EventLog, sender: Sender, content: ContentStore, clock: Clock, host: str) -> None:
        self._log = log
        self._sender = sender
        self._content = content
        self._clock = clock
        self._host = host
        self._waiting: dict[str, asyncio.Future[CallEnd]] = {}

    async def start(self) -> Following:
        """Follow the environments: what ends there may be waited for here."""
        return await self._log.follow(
            self._deliver, after=await self._log.last_sequence(), entities=(ENVIRONMENT.name,)
        )

    def _deliver(self, record: Recorded) -> None:
        for event in record.envelope.events:
            if isinstance(event, CallEnd) and event.call_id in self._waiting:
                waiting = self._waiting[event.call_id]
                if not waiting.done():
                    waiting.set_result(event)

    async def run(self, environment_id: str, experiment_id: str, call_id: str, command: Command) -> Answer:
        waiting: asyncio.Future[CallEnd] = asyncio.get_running_loop().create_future()
        self._waiting[call_id] = waiting
        try:
            number = 0
            while not waiting.done():
                self._send(environment_id, experiment_id, call_id, command, number)
                number += 1
                resting = asyncio.ensure_future(self._clock.sleep(AGAIN_SECONDS))
                waiting.add_done_callback(lambda _, resting=resting: resting.cancel())  # type: ignore[misc]
                await asyncio.wait([resting])
        finally:
            del self._waiting[call_id]
        return await self._answer(waiting.result())

    def _send(self, environment_id: str, experiment_id: str, call_id: str, command: Command, number: int) -> None:
        arguments = {"command": command.command, "timeout_seconds": command.timeout}
        call = ExecuteTool(
            call_id=call_id,
            run_id=experiment_id,
            task_id="",
            tool="shell",
            arguments=Inline(msgspec.json.encode(arguments).decode()),
            effects="none",
            time_limit_seconds=command.timeout,
        )
        self._sender.cast(
            subjects.ENVIRONMENT_MANAGER,
            self._host,
            subjects.CALL_TOKEN,
            environment_id,
            call,
            command_id=f"{call_id}.{number}" if number else call_id,
            cause=Cause(id=experiment_id, correlation=experiment_id),
        )

    async def _answer(self, ended: CallEnd) -> Answer:
        if not isinstance(ended, ToolCallCompleted):
            detail = getattr(ended, "detail", "") or getattr(ended, "reason", "")
            message = f"the command did not end by itself: {detail}"
            raise Permanent(message, slug="command-failed")
        text = await read_content(self._content, ended.content)
        code = ended.exit_code if ended.exit_code is not None else -1
        return Answer(value=code, text=text, failed=code != 0)
