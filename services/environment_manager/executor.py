"""Executes tool calls: each becomes ``started`` before anything happens and ends with exactly one event.

Calls that change the workspace go one after another in each environment, those that change nothing run beside them.
After a call that may have changed the workspace a checkpoint is taken, and named by the event that ends the call:
also where a tool that an agent declared says that it changes nothing, so that the log tells if that is not so.
What a process prints goes to the output stream as it comes, with every secret redacted.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import uuid
from collections.abc import Callable
from dataclasses import dataclass
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
    ToolCallStarted,
)
from events.errors import CairnError, Fenced, Permanent, Transient
from events.kernel import Event, replace
from events.tools import Arguments, Program, Shell, decode_arguments, not_allowed
from infra import semantics, telemetry
from infra.entities import Cause, EntityStore
from infra.ports import Clock, ContentStore, EventLog, read_content, store_content
from infra.redaction import Redactor
from infra.sender import Sender
from services.environment_manager import ends, sessions, tools
from services.environment_manager.bundles import Bundles
from services.environment_manager.deciders import environment as decider
from services.environment_manager.operations import Asked, Done, Operations
from services.environment_manager.output import OutputWriter
from services.environment_manager.ports import Checkpoint, FileTools, Limits, Processes, Sandboxes, Workspaces
from services.environment_manager.reports import Reports
from services.environment_manager.room import Room, Rooms
from services.environment_manager.tools.commands import Start, start_of, start_of_declared, start_of_probe

logger = structlog.get_logger()

RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Plumbing:
    """What the executor works with. ``resolve_secret`` turns references into values; raises ``Permanent``. Without
    ``sandboxes`` every environment lives in a working tree."""

    log: EventLog
    environments: EntityStore[Environment]
    workspaces: Workspaces
    processes: Processes
    execute_file_tool: FileTools
    operations: Operations
    content: ContentStore
    output: OutputWriter
    sender: Sender
    clock: Clock
    resolve_secret: Callable[[str], str]
    grace_seconds: float
    output_limit_bytes: int
    host: str
    bundle_checkpoints: bool
    sandboxes: Sandboxes | None = None


class Executor:
    """``displaced`` is called with the id of an environment that turned out to live on another host by now."""

    def __init__(self, plumbing: Plumbing) -> None:
        self.displaced: Callable[[str], None] = lambda id: None
        self.bundles = Bundles(
            plumbing.environments,
            plumbing.workspaces,
            plumbing.content,
            plumbing.clock,
            self.append,
            enabled=plumbing.bundle_checkpoints,
        )
        self._plumbing = plumbing
        self._reports = Reports(plumbing.log, plumbing.sender, plumbing.content)
        self.rooms = Rooms()

    def begin(self, id: str, command: ExecuteTool, cause: Cause) -> None:
        """Start working on a call, or go on with it; nothing where that is under way already."""
        with self.rooms.enter(id) as room:
            if command.call_id not in room.calls:
                work = asyncio.create_task(self._see_through(room, command, cause))
                self.rooms.begin(room, command.call_id, work)

    async def interrupt(self, id: str, command: InterruptCall) -> None:
        """End a call that is under way; one that waits for its turn is not begun any more."""
        room = self.rooms.find(id)
        if room is None:
            return
        if command.call_id in room.calls:
            room.interrupted[command.call_id] = command.reason
        if command.call_id in room.operations:
            room.operations[command.call_id].cancel()
        if command.call_id in room.processes:
            await self._plumbing.processes.interrupt(id, room.processes[command.call_id])

    async def interrupt_all(self, id: str, reason: str) -> None:
        """End every call of the environment and wait until each has its end in the log."""
        room = self.rooms.find(id)
        calls = dict(room.calls) if room is not None else {}
        for call_id in calls:
            await self.interrupt(id, InterruptCall(call_id=call_id, reason=reason))
        if calls:
            await asyncio.wait(calls.values(), timeout=self._plumbing.grace_seconds + 5.0)

    async def abandon(self, id: str, started: ToolCallStarted) -> None:
        """End what is left of a call that nobody waits for any more, then say that it is over."""
        processes = self._plumbing.processes
        async with self.rooms.changing(id):
            for process_id, runs in (await processes.known(id)).items():
                if runs and process_id.partition(".")[0] == started.call_id:
                    await processes.interrupt(id, process_id)
                    await processes.wait(id, process_id)
            cause = Cause(id=f"{started.call_id}-abandoned", actor=subjects.ENVIRONMENT_MANAGER)
            left = await self._plumbing.workspaces.checkpoint(id, f"{started.tool} {started.call_id} abandoned")
            await self.append(id, cause, lambda state: decider.abandon_call(state, started, left))

    async def stop(self) -> None:
        """Let go of everything: processes go on under their shims, and are adopted by whoever comes next."""
        tasks = self.rooms.calls()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.bundles.stop()

    def own(self, cause: Cause) -> Cause:
        """The cause of a decision of this host: another one that decides the same must not take it for its own."""
        return replace(cause, id=f"{cause.id}@{self._plumbing.host}")

    async def append(self, id: str, cause: Cause, decide: Callable[[Environment], tuple[Event, ...]]) -> Environment:
        """Append what is decided. Raises ``Fenced`` where the environment lives on another host by now."""

        def if_here(state: Environment) -> tuple[Event, ...]:
            if decider.stands(state) and state.host != self._plumbing.host:
                message = f"environment {id} lives on {state.host} now"
                raise Fenced(message)
            return decide(state)

        with self.rooms.enter(id) as room:
            async with room.appending:
                try:
                    return (await self._plumbing.environments.decide(id, self.own(cause), if_here)).state
                except Fenced:
                    self.displaced(id)
                    raise

    # ---- one call

    async def _see_through(self, room: Room, command: ExecuteTool, cause: Cause) -> None:
        """A log or disk that flinches delays a call; it is never given up for that."""
        while True:
            try:
                with telemetry.span(f"execute {command.tool}", trace=cause.trace, kind=semantics.CONSUMER) as span:
                    await self._execute(room, command, replace(cause, trace=span.trace))
            except Transient as error:
                logger.warning("call delayed", call=command.call_id, error=str(error))
                await asyncio.sleep(max(RETRY_SECONDS, error.delay_seconds))
            except OSError as error:
                logger.warning("call delayed by this host", call=command.call_id, error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            except CairnError as error:
                logger.error("call not executed", call=command.call_id, error=str(error))
                return
            else:
                return

    async def _execute(self, room: Room, command: ExecuteTool, cause: Cause) -> None:
        order: contextlib.AbstractAsyncContextManager[Any] = (
            contextlib.nullcontext() if command.effects == "none" else room.changing
        )
        async with order:
            ended = None
            if await self._is_held(room, command):
                if command.check_stage:
                    await self._report_divergence(room, command, cause)
                return
            while command.call_id not in (await self._state(room)).ended:
                try:
                    ended = await self._end_of(room, command, cause)
                except Uncertain:
                    await self._resolve(room, command, cause)
                else:
                    await self._end(room, command, ended, cause)
            # Also where its end is in the log and the answer that said so was lost.
            self.bundles.note(room.id)
        if command.check_stage:
            await self._report_check(room, command, ended, cause)

    async def _is_held(self, room: Room, command: ExecuteTool) -> bool:
        """Whether the call cannot begin now, its workspace being gone or diverged: it is sent again when it can."""
        state = await self._state(room)
        if command.call_id in state.ended or state.prepared is None:
            return False
        if state.removed or await self.lost(room.id, state):
            return True
        # What runs here is let come to its end; what ran in a workspace that is gone begins anew in this one.
        goes_on = command.call_id in state.running and command.call_id not in state.elsewhere
        return state.diverged is not None and not goes_on

    async def _report_divergence(self, room: Room, command: ExecuteTool, cause: Cause) -> None:
        """No run asks what holds where a gate's workspace has diverged: the scheduler is told, each time it asks."""
        diverged = (await self._state(room)).diverged
        if diverged is not None:
            await self._reports.divergence(command, diverged, cause)

    async def lost(self, id: str, state: Environment) -> bool:
        """Whether the workspace is gone, which is said in the log then."""
        if state.stands and not self._plumbing.workspaces.stands(id):
            cause = Cause(id=f"{id}-lost-{uuid.uuid4().hex}", actor=subjects.ENVIRONMENT_MANAGER)
            await self.append(id, cause, lambda state: decider.lose(state, "its workspace is gone from the disk"))
            logger.warning("lost", environment=id)
            return True
        return state.lost

    async def _end(self, room: Room, command: ExecuteTool, ended: CallEnd, cause: Cause) -> None:
        facts = room.facts.get(command.call_id, ())
        await self.append(room.id, _named(cause, command, "end"), lambda state: decider.end_call(state, ended, facts))

    async def _state(self, room: Room) -> Environment:
        kept = self._plumbing.environments.peek(room.id)
        return kept[0] if kept is not None else (await self._plumbing.environments.load(room.id))[0]

    async def _end_of(self, room: Room, command: ExecuteTool, cause: Cause) -> CallEnd:
        """Work on the call until it is known how it ends. Raises ``Uncertain`` where that cannot be known."""
        began = asyncio.get_running_loop().time()
        state = await self._state(room)
        if not decider.stands(state):
            # Whoever asks may have read in the log that it stands before the answer to our append came back.
            state, _ = await self._plumbing.environments.load(room.id)
        try:
            if not decider.stands(state):
                message = f"environment {room.id} has no workspace"
                raise Permanent(message, slug="environment-missing")
            if command.declared is None and (refusal := not_allowed(command.tool, command.groups)):
                raise Permanent(refusal, slug="tool-not-allowed")
            begun = command.call_id in state.running
            if command.call_id in state.elsewhere:
                raise Uncertain
            left = [id for id, started in state.running.items() if started.effects != "none"]
            if not begun and command.effects != "none" and left:
                # Left by the process before: what it half did must not get into this one's checkpoint.
                message = f"{', '.join(left)} of environment {room.id} has to come to its end first"
                raise Transient(message)
            if not begun and command.call_id in room.interrupted:
                return ends.interrupted(command, room.interrupted[command.call_id])
            # That a built-in tool without effects was begun matters to nobody; a process of one may be under way.
            if (command.effects != "none" or command.declared is not None) and not begun:
                state = await self._started(room, command, cause)
            ended = await self._run(room, command, state, began, begun=begun)
        except tools.ToolRefused as error:
            ended = ends.failed(command, error.cause, str(error), began)
        except Permanent as error:
            ended = ends.failed(command, error.slug, str(error), began)
        if not decider.stands(state):
            return ended
        try:
            if command.effects != "none":
                ended = await self._with_checkpoint(room, command, ended)
                return replace(ended, session=await self._session(room, command)) if command.session_file else ended
            if command.declared is not None:
                async with room.changing:
                    return await self._with_checkpoint(room, command, ended)
        except Permanent as error:
            return ends.failed(command, error.slug, str(error), began)
        return ended

    async def _session(self, room: Room, command: ExecuteTool) -> str:
        """The record that the agent program has left of its session, a copy of which is kept."""
        directory = self._plumbing.workspaces.directory(room.id)
        return await asyncio.to_thread(sessions.keep, directory, command.session_file)

    async def _with_checkpoint(self, room: Room, command: ExecuteTool, ended: CallEnd) -> CallEnd:
        checkpoint = await self._checkpoint(room, command)
        if checkpoint.commit == (await self._state(room)).checkpoint:
            return ended
        return replace(ended, checkpoint=checkpoint.commit, tree=checkpoint.tree)

    async def _checkpoint(self, room: Room, command: ExecuteTool) -> Checkpoint:
        return await self._plumbing.workspaces.checkpoint(room.id, f"{command.tool} {command.call_id}")

    async def _started(self, room: Room, command: ExecuteTool, cause: Cause) -> Environment:
        started = ToolCallStarted(
            call_id=command.call_id,
            run_id=command.run_id,
            tool=command.tool,
            effects=command.effects,
            retry=command.retry,
        )
        return await self.append(
            room.id, _named(cause, command, "start"), lambda state: decider.start_call(state, started)
        )

    async def _resolve(self, room: Room, command: ExecuteTool, cause: Cause) -> None:
        state = await self._state(room)
        count = state.uncertain.get(command.call_id, 0) + 1
        probed = await self._probe(room, command, state) if decider.asks_world(command) else None
        left = await self._checkpoint(room, command) if command.effects == "external" else None
        state = await self.append(
            room.id,
            _named(cause, command, f"uncertain-{count}"),
            lambda state: decider.resolve_uncertain(state, command, probed, left),
        )
        logger.warning("uncertain", call=command.call_id, tool=command.tool)
        if command.call_id not in state.ended:
            room.resolved.add(command.call_id)

    async def _undo(self, room: Room, command: ExecuteTool, state: Environment) -> None:
        """Before a call is executed again: what the time before left in the workspace half done goes."""
        if state.uncertain.get(command.call_id) and command.effects == "workspace":
            await self._plumbing.workspaces.restore(room.id, state.checkpoint)

    async def _probe(self, room: Room, command: ExecuteTool, state: Environment) -> decider.Probed:
        """Ask the world whether a call happened. One that was asked before is not asked again."""
        assert command.declared is not None
        processes = self._plumbing.processes
        text = await read_content(self._plumbing.content, command.arguments)
        process_id = f"{_process_id(state, command)}.probe"
        start = start_of_probe(*self._seen(room), command, command.declared, text)
        asked = shlex.join(command.declared.probe)
        await processes.ready(room.id)
        if process_id not in await processes.known(room.id):
            await self._start(room, command, state, process_id, start)
        exit = await processes.wait(room.id, process_id)
        if exit is None:
            return decider.Probed(asked=asked)
        answered = await self._printed(room, command, state, process_id)
        return decider.Probed(asked=asked, answered=answered, exit_code=exit.code if exit.cause == "exited" else None)

    async def _run(self, room: Room, command: ExecuteTool, state: Environment, began: float, *, begun: bool) -> CallEnd:
        text = await read_content(self._plumbing.content, command.arguments)
        directory = self._plumbing.workspaces.directory(room.id)
        if command.declared is not None:
            start = start_of_declared(*self._seen(room), command, command.declared, text)
            return await self._process(room, command, state, start, begun=begun)
        arguments = decode_arguments(command.tool, text)
        if isinstance(arguments, str):
            return ends.failed(command, "invalid-arguments", arguments, began)
        if isinstance(arguments, Shell | Program):
            return await self._process(
                room, command, state, start_of(*self._seen(room), command, arguments), begun=begun
            )
        if begun and command.call_id not in room.resolved:
            raise Uncertain
        room.resolved.discard(command.call_id)
        await self._undo(room, command, state)
        if type(arguments) in self._plumbing.operations:
            done = await self._operate(room, command, state, arguments)
        else:
            done = Done(text=await self._plumbing.execute_file_tool(directory / "workspace", arguments))
        if done is None:
            return ends.interrupted(command, room.interrupted[command.call_id])
        room.facts[command.call_id] = done.facts
        data = done.text.encode()
        content = await self._stored(self._redactor(room, state, command).redact(data))
        return ends.done(command, done, content, output_bytes=len(data), duration_ms=ends.since(began))

    async def _operate(self, room: Room, command: ExecuteTool, state: Environment, arguments: Arguments) -> Done | None:
        """What an operation came to; None where it was interrupted."""
        plumbing, redactor = self._plumbing, self._redactor(room, state, command)
        async with plumbing.output.of(command.run_id, _process_id(state, command), redactor) as write:
            asked = Asked(
                environment=state,
                command=command,
                arguments=arguments,
                directory=plumbing.workspaces.directory(room.id),
                variables=self._secrets(state, command),
                say=lambda text: write(0, text.encode()),
            )
            return await room.operate(asked, plumbing.operations[type(arguments)])

    async def _process(
        self,
        room: Room,
        command: ExecuteTool,
        state: Environment,
        start: Start,
        *,
        begun: bool,
    ) -> CallEnd:
        """Start the process, or take up the one that runs or has ended since: the shim's files tell.

        A call that was started in the log and is unknown to the shim never became a process.
        """
        plumbing, processes = self._plumbing, self._plumbing.processes
        process_id = _process_id(state, command)
        redactor = self._redactor(room, state, command)
        await processes.ready(room.id)
        if not begun or process_id not in await processes.known(room.id):
            await self._undo(room, command, state)
            await self._start(room, command, state, process_id, start)
        room.processes[command.call_id] = process_id
        try:
            if command.call_id in room.interrupted:
                await processes.interrupt(room.id, process_id)
            async with plumbing.output.of(command.run_id, process_id, redactor) as write:
                exit = await processes.wait(room.id, process_id, write)
        finally:
            room.processes.pop(command.call_id, None)
        if exit is None:
            raise Uncertain
        content = await self._printed(room, command, state, process_id)
        return ends.ended(command, exit, content, room.interrupted.get(command.call_id, "interrupted"))

    async def _printed(self, room: Room, command: ExecuteTool, state: Environment, process_id: str) -> Content:
        redactor = self._redactor(room, state, command)
        output = await self._plumbing.processes.output(
            room.id, process_id, redactor, limit_bytes=ends.CONTENT_LIMIT_BYTES
        )
        return await self._stored(output)

    async def _start(self, room: Room, command: ExecuteTool, state: Environment, process_id: str, start: Start) -> None:
        plumbing = self._plumbing
        limits = Limits(
            seconds=min(filter(None, (start.seconds, command.time_limit_seconds)), default=0.0),
            idle_seconds=command.idle_limit_seconds,
            grace_seconds=plumbing.grace_seconds,
            output_bytes=plumbing.output_limit_bytes,
        )
        directory, inside = self._seen(room)
        env = tools.process_environment(
            directory,
            self._secrets(state, command),
            start.variables,
            inside=inside,
            services=(seen.service for seen in state.system.services) if state.system is not None else (),
        )
        await plumbing.processes.start(room.id, process_id, start.argv, env=env, limits=limits)

    def _seen(self, room: Room) -> tuple[Path, Path]:
        """The environment's directory, here and as its processes see it."""
        return self._plumbing.workspaces.directory(room.id), self._plumbing.processes.inside(room.id)

    # ---- secrets and results

    def _secrets(self, state: Environment, command: ExecuteTool) -> dict[str, str]:
        references = {**(state.prepared.secrets if state.prepared is not None else {}), **command.secrets}
        return {name: self._plumbing.resolve_secret(reference) for name, reference in references.items()}

    def _redactor(self, room: Room, state: Environment, command: ExecuteTool) -> Redactor:
        """Made once for each set of secrets of an environment."""
        secrets = self._secrets(state, command)
        key = tuple(sorted(secrets.values()))
        if key not in room.redactors:
            room.redactors[key] = Redactor(key)
        return room.redactors[key]

    async def _stored(self, data: bytes) -> Content:
        return await store_content(self._plumbing.content, data.decode(errors="replace"))

    async def _report_check(self, room: Room, command: ExecuteTool, ended: CallEnd | None, cause: Cause) -> None:
        """Tell the scheduler what its gate's check came to; again where the call had ended before."""
        await self._reports.check(command, ended or await self._reports.find_end(room.id, command.call_id), cause)


class Uncertain(Exception):
    """A started call whose process is gone without a result."""


def _named(cause: Cause, command: ExecuteTool, what: str) -> Cause:
    return replace(cause, id=f"{command.call_id}-{what}")


def _process_id(state: Environment, command: ExecuteTool) -> str:
    """Each time that a call is executed again its process has another name."""
    again = state.uncertain.get(command.call_id, 0)
    return f"{command.call_id}.{again}" if again else command.call_id
