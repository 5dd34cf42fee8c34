"""Executes tool calls: each becomes ``started`` before anything happens and ends with exactly one event.

Calls that change the workspace go one after another in each environment, those that change nothing run beside them.
After a call that may have changed the workspace a checkpoint is taken, and named by the event that ends the call.
What a process prints goes to the output stream as it comes, with every secret redacted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from events import subjects
from events.content import Content
from events.environment import (
    CallEnd,
    Environment,
    ExecuteTool,
    InterruptCall,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallInterrupted,
    ToolCallStarted,
)
from events.errors import CairnError, Permanent, Transient
from events.kernel import Event, replace
from events.task import RecordCheck
from infra import telemetry
from infra.entities import Cause, EntityStore
from infra.ports import Clock, ContentStore, read_content, store_content
from infra.redaction import Redactor
from infra.sender import Sender
from services.environment_manager import tools
from services.environment_manager.deciders import environment as decider
from services.environment_manager.output import OutputWriter
from services.environment_manager.ports import Exit, Limits, Processes, Workspaces

logger = structlog.get_logger()

CONTENT_LIMIT_BYTES = 30_000
CHECK_DETAIL_CHARACTERS = 4_000
RETRY_SECONDS = 1.0


@dataclass
class Room:
    """What this process holds of one environment: its order of changes and the calls under way."""

    id: str
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    appending: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    interrupted: dict[str, str] = field(default_factory=dict)
    redactors: dict[tuple[tuple[str, str], ...], Redactor] = field(default_factory=dict)


@dataclass(frozen=True)
class Plumbing:
    """What the executor works with. ``secrets`` turns references into values; raises ``Permanent``."""

    environments: EntityStore[Environment]
    workspaces: Workspaces
    processes: Processes
    content: ContentStore
    output: OutputWriter
    sender: Sender
    clock: Clock
    resolve_secret: Callable[[str], str]
    grace_seconds: float
    output_limit_bytes: int


class Executor:
    def __init__(self, plumbing: Plumbing) -> None:
        self._plumbing = plumbing
        self._rooms: dict[str, Room] = {}

    def room(self, id: str) -> Room:
        return self._rooms.setdefault(id, Room(id))

    def begin(self, id: str, command: ExecuteTool, cause: Cause, *, adopt: bool = False) -> None:
        """Start working on a call, unless that is under way already. With ``adopt`` its process is there."""
        room = self.room(id)
        if command.call_id in room.calls:
            return
        task = asyncio.create_task(self._see_through(room, command, cause, adopt=adopt))
        room.calls[command.call_id] = task
        task.add_done_callback(lambda _: room.calls.pop(command.call_id, None))

    async def interrupt(self, id: str, command: InterruptCall) -> None:
        room = self.room(id)
        if command.call_id in room.calls:
            room.interrupted[command.call_id] = command.reason
            await self._plumbing.processes.interrupt(id, command.call_id)

    async def interrupt_all(self, id: str, reason: str) -> None:
        """End every call of the environment and wait until each has its end in the log."""
        room = self.room(id)
        calls = dict(room.calls)
        for call_id in calls:
            await self.interrupt(id, InterruptCall(call_id=call_id, reason=reason))
        if calls:
            await asyncio.wait(calls.values(), timeout=self._plumbing.grace_seconds + 5.0)

    async def stop(self) -> None:
        """Let go of everything: processes go on under their shims, and are adopted by whoever comes next."""
        tasks = [task for room in self._rooms.values() for task in room.calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def append(self, id: str, cause: Cause, decide: Callable[[Environment], tuple[Event, ...]]) -> Environment:
        async with self.room(id).appending:
            return (await self._plumbing.environments.decide(id, cause, decide)).state

    # ---- one call

    async def _see_through(self, room: Room, command: ExecuteTool, cause: Cause, *, adopt: bool) -> None:
        """A log or disk that flinches delays a call; it is never given up for that."""
        while True:
            try:
                with telemetry.span(f"execute {command.tool}", trace=cause.trace, kind="consumer") as span:
                    await self._execute(room, command, replace(cause, trace=span.trace), adopt=adopt)
            except Transient as error:
                logger.warning("call delayed", call=command.call_id, error=str(error))
                await asyncio.sleep(max(RETRY_SECONDS, error.delay_seconds))
                self._plumbing.environments.forget(room.id)
            except CairnError as error:
                logger.error("call not executed", call=command.call_id, error=str(error))
                return
            else:
                return

    async def _execute(self, room: Room, command: ExecuteTool, cause: Cause, *, adopt: bool) -> None:
        plumbing = self._plumbing
        kept = plumbing.environments.peek(room.id)
        state = kept[0] if kept is not None else (await plumbing.environments.load(room.id))[0]
        if command.call_id not in state.ended:
            order: contextlib.AbstractAsyncContextManager[Any] = (
                contextlib.nullcontext() if command.effects == "none" else room.changing
            )
            async with order:
                ended = await self._end_of(room, command, cause, adopt=adopt or command.call_id in state.running)
                await self.append(
                    room.id,
                    replace(cause, id=f"{command.call_id}-end"),
                    lambda state: decider.end_call(state, ended),
                )
        else:
            ended = None
        if command.check_stage:
            await self._report_check(room.id, command, ended, cause)

    async def _end_of(self, room: Room, command: ExecuteTool, cause: Cause, *, adopt: bool) -> CallEnd:
        plumbing = self._plumbing
        began = time.monotonic()
        ended: CallEnd
        try:
            state = await self._standing(room, command, cause)
            if command.effects != "none" and not adopt:
                started = ToolCallStarted(
                    call_id=command.call_id,
                    run_id=command.run_id,
                    tool=command.tool,
                    effects=command.effects,
                    retry=command.retry,
                )
                state = await self.append(
                    room.id,
                    replace(cause, id=f"{command.call_id}-start"),
                    lambda state: decider.start_call(state, started),
                )
            ended = await self._run(room, command, state, began, adopt=adopt)
            if command.effects != "none":
                checkpoint = await plumbing.workspaces.checkpoint(room.id, f"{command.tool} {command.call_id}")
                if checkpoint.commit != state.checkpoint:
                    ended = replace(ended, checkpoint=checkpoint.commit, tree=checkpoint.tree)
        except tools.ToolRefused as error:
            ended = self._failed(command, error.cause, str(error), began)
        except Permanent as error:
            ended = self._failed(command, error.slug, str(error), began)
        return ended

    async def _standing(self, room: Room, command: ExecuteTool, cause: Cause) -> Environment:
        kept = self._plumbing.environments.peek(room.id)
        state = kept[0] if kept is not None else (await self._plumbing.environments.load(room.id))[0]
        if not decider.stands(state):
            message = f"environment {room.id} has no workspace"
            raise Permanent(message, slug="environment-missing")
        return state

    async def _run(
        self, room: Room, command: ExecuteTool, state: Environment, began: float, *, adopt: bool
    ) -> CallEnd:
        text = await read_content(self._plumbing.content, command.arguments)
        arguments = tools.parse_arguments(command.tool, text)
        redactor = self._redactor(room, state, command)
        if command.tool not in tools.PROCESS_TOOLS:
            workspace = self._plumbing.workspaces.directory(room.id) / "workspace"
            result = await tools.execute_file_tool(workspace, command.tool, arguments)
            return ToolCallCompleted(
                call_id=command.call_id,
                run_id=command.run_id,
                tool=command.tool,
                duration_ms=_since(began),
                content=await self._stored(redactor.redact(result.encode())),
                output_bytes=len(result),
            )
        return await self._process(room, command, state, arguments, redactor, began, adopt=adopt)

    async def _process(
        self,
        room: Room,
        command: ExecuteTool,
        state: Environment,
        arguments: Any,
        redactor: Redactor,
        began: float,
        *,
        adopt: bool,
    ) -> CallEnd:
        plumbing, processes = self._plumbing, self._plumbing.processes
        directory = plumbing.workspaces.directory(room.id)
        if not adopt:
            argv, extra, limit_seconds = tools.process_of(command.tool, arguments, directory, command.call_id)
            limits = Limits(
                seconds=min(filter(None, (limit_seconds, command.time_limit_seconds)), default=0.0),
                idle_seconds=command.idle_limit_seconds,
                grace_seconds=plumbing.grace_seconds,
                output_bytes=plumbing.output_limit_bytes,
            )
            env = tools.process_environment(directory, self._secrets(state, command), extra)
            await processes.ready(room.id)
            if command.call_id not in room.interrupted:
                await processes.start(room.id, command.call_id, argv, env=env, limits=limits)
        async with plumbing.output.of(command.run_id, command.call_id, redactor) as write:
            exit = await processes.wait(room.id, command.call_id, write)
        if exit is None:
            raise Uncertain
        output = await processes.output(room.id, command.call_id, limit_bytes=CONTENT_LIMIT_BYTES)
        return self._ended_by(exit, command, room, await self._stored(redactor.redact(output)), began)
