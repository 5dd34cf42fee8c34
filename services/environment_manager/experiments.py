"""The tools of faults and experiments: each asks the chaos service of this host for an experiment, and follows it.

The experiment's id follows from the call's, so that a call that is executed again after a crash finds the experiment
that it asked for, under way or ended. A single fault answers when it holds, or with ``wait`` when it is undone; an
experiment answers with its verdict. One that is refused because something of before is not undone yet is asked for
again until that is gone. Where the call is interrupted, the chaos service ends the experiment by itself.

A fresh experiment is one on a system that was brought up for it and is taken down after it. A system that does not come
up does not hold, whatever the fault would have been.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from events import subjects
from events.envelope import Recorded
from events.experiment import (
    EXPERIMENT,
    Experiment,
    ExperimentAborted,
    ExperimentCompleted,
    ExperimentDeviated,
    ExperimentRefused,
    Finding,
    RunExperiment,
    experiment_of_call,
    single,
)
from events.tools import FAULT_TOOLS, Arguments, ComposeDown, ComposeUp, RunExperimentFile
from infra.entities import Cause
from infra.ports import EventLog
from infra.sender import Sender
from services.environment_manager.operations import Asked, Done, Operation, Operations
from services.environment_manager.tools import ToolRefused
from services.environment_manager.tools.places import opened
from services.environment_manager.tools.refused import about

DOCUMENT_BYTES = 128 * 1024
# What a refusal means that is the system's own: it does not even hold without faults.
NOT_STEADY = "steady-state-not-met"
# What a refusal means that passes by itself: faults of before are not undone yet.
OCCUPIED = ("busy", "residue")
AGAIN_SECONDS = 1.0
# What a failure to bring a system up means that is not the system's own.
ENGINES_OWN = ("engine-unavailable", "compose-unavailable")


class Experiments:
    """``host`` is where the chaos service of the environments is: here. ``systems`` are the operations that bring
    composed systems up and down, where this host has them."""

    def __init__(self, log: EventLog, sender: Sender, *, host: str, systems: Operations) -> None:
        self._log = log
        self._sender = sender
        self._host = host
        self._systems = systems

    def operations(self) -> Operations:
        work: dict[type, Operation] = {kind: partial(self._fault, name) for name, kind in FAULT_TOOLS.items()}
        return {**work, RunExperimentFile: self._experiment}

    async def _fault(self, kind: str, asked: Asked) -> Done:
        fault = {"kind": kind, **msgspec.to_builtins(asked.arguments)}
        wait = bool(fault.pop("wait"))

        def settled(state: Experiment) -> bool:
            holds = any(item.injected for item in state.faults.values())
            return state.verdict is not None or (holds and not wait)

        state = await self._ask(asked, single(fault), settled)
        return _held(state) if state.verdict is None else report(state)

    async def _experiment(self, asked: Asked) -> Done:
        arguments = asked.arguments
        assert isinstance(arguments, RunExperimentFile)
        document = await asyncio.to_thread(_read, asked.directory / "workspace", arguments.path)

        def settled(state: Experiment) -> bool:
            return state.verdict is not None or (arguments.dry_run and state.validated is not None)

        async def done() -> Done:
            number = 1
            while True:
                state = await self._ask(asked, document, settled, dry_run=arguments.dry_run, number=number)
                if not (isinstance(state.verdict, ExperimentRefused) and state.verdict.cause in OCCUPIED):
                    return _checked(state) if state.verdict is None else report(state)
                await asked.say(f"waiting: {state.verdict.detail}\n")
                await asyncio.sleep(AGAIN_SECONDS)
                number += 1

        return await self._on_fresh_system(asked, done) if arguments.fresh else await done()

    async def _on_fresh_system(self, asked: Asked, work: Callable[[], Awaitable[Done]]) -> Done:
        async def system(arguments: Arguments) -> Done:
            return await self._systems[type(arguments)](replace(asked, arguments=arguments))

        if ComposeUp not in self._systems:
            return Done(cause="engine-unavailable", detail="this host has no Docker engine to bring a system up with.")
        cleared = started = Done()
        # Where this call was begun before, and the experiment with it, the system is the one that it is about.
        if not await self._log.load(EXPERIMENT.name, experiment_of_call(asked.command.call_id)):
            cleared = await system(ComposeDown(volumes=True))
            started = cleared if cleared.cause else await system(ComposeUp())
        if started.cause in ENGINES_OWN:
            return started
        if started.cause:
            text = f"The system does not come up: {started.detail}\n\n{started.text}".strip()
            ended = Done(text=text, exit_code=1)
        else:
            ended = await work()
        removed = await system(ComposeDown(volumes=True))
        facts = (*cleared.facts, *started.facts, *ended.facts, *removed.facts)
        return msgspec.structs.replace(ended, facts=facts)

    async def _ask(
        self,
        asked: Asked,
        document: str,
        settled: Callable[[Experiment], bool],
        *,
        dry_run: bool = False,
        number: int = 1,
    ) -> Experiment:
        """Ask for the experiment, and follow it until it is settled. Raises ``Transient``."""
        id = experiment_of_call(asked.command.call_id, number)
        state = EXPERIMENT.initial(id)
        changed = asyncio.Event()
        waiting: list[Recorded] = []

        def deliver(record: Recorded) -> None:
            if record.envelope.entity_id == id:
                waiting.append(record)
                changed.set()

        following = await self._log.follow(deliver, after=await self._log.last_sequence(), entities=(EXPERIMENT.name,))
        try:
            # Behind the beginning of the following, so that nothing falls between the two.
            waiting[:0] = await self._log.load(EXPERIMENT.name, id)
            if not waiting:
                await self._send(asked, id, document, dry_run=dry_run)
            sequence = 0
            while True:
                changed.clear()
                # What comes while these are told is for the next round.
                records = sorted(waiting, key=lambda record: record.sequence)
                waiting.clear()
                for record in records:
                    if record.sequence > sequence:
                        sequence = record.sequence
                        before, state = state.status, EXPERIMENT.fold_onto(state, record.envelope.events)
                        if state.status != before:
                            await asked.say(f"experiment {id}: {state.status}\n")
                if settled(state):
                    return state
                await changed.wait()
        finally:
            await following.close()

    async def _send(self, asked: Asked, id: str, document: str, *, dry_run: bool) -> None:
        command = asked.command
        wish = RunExperiment(
            document=document,
            target=asked.environment.id,
            reason=f"{command.tool} of {command.run_id}",
            dry_run=dry_run,
            run_id=command.run_id,
            call_id=command.call_id,
        )
        cause = Cause(id=command.call_id, correlation=command.run_id)
        await self._sender.send(subjects.CHAOS, self._host, EXPERIMENT.name, id, wish, command_id=id, cause=cause)


def _read(workspace: Path, path: str) -> str:
    with about(path), opened(workspace, path) as file:
        data = file.read(DOCUMENT_BYTES + 1)
    if len(data) > DOCUMENT_BYTES:
        raise ToolRefused("document-too-large", f"{path} has more than {DOCUMENT_BYTES} bytes.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ToolRefused("binary-file", f"{path} is no text in UTF-8.") from error


def report(state: Experiment) -> Done:
    """The end of a call from the end of its experiment. Exit code 0: everything held; 1: something of the system did
    not. An experiment that says nothing about the system fails its call."""
    match state.verdict:
        case ExperimentCompleted(summary=summary, findings=findings):
            return Done(text=_text(state, f"completed: {summary}", findings), exit_code=0)
        case ExperimentDeviated(summary=summary, findings=findings):
            return Done(text=_text(state, f"deviated: {summary}", findings), exit_code=1)
        case ExperimentAborted(cause="guard", summary=summary, findings=findings):
            return Done(text=_text(state, f"aborted: {summary}", findings), exit_code=1)
        case ExperimentAborted(cause=cause, summary=summary, findings=findings):
            text = _text(state, f"aborted: {summary}", findings)
            return Done(text=text, cause=f"experiment-{cause}", detail=text)
        case ExperimentRefused(cause=cause, detail=detail) if cause == NOT_STEADY:
            text = f"experiment {state.id} refused: the system is not steady without any fault. {detail}"
            return Done(text=text, exit_code=1)
        case ExperimentRefused(cause=cause, detail=detail):
            return Done(cause=cause, detail=f"the experiment is refused: {detail}")
        case None:
            message = f"experiment {state.id} has not ended"
            raise ValueError(message)


def _text(state: Experiment, verdict: str, findings: tuple[Finding, ...]) -> str:
    lines = [f"experiment {state.id} {verdict}"]
    for finding in findings:
        lines.append(f"- {finding.text}")
        if finding.recommendation:
            lines.append(f"  {finding.recommendation}")
    return "\n".join(lines)


def _held(state: Experiment) -> Done:
    fault = next(iter(state.faults.values())).intended
    peers = f" towards {', '.join(fault.peers)}" if fault.peers else ""
    text = (
        f"{fault.fault['kind']} holds on {', '.join(fault.containers)}{peers}; it is undone by itself at "
        f"{fault.ends_at:%H:%M:%S} UTC (experiment {state.id})."
    )
    return Done(text=text, exit_code=0)


def _checked(state: Experiment) -> Done:
    assert state.validated is not None
    lines = ["The experiment can be run. It would hit:"]
    for fault in state.validated.faults:
        peers = f" towards {', '.join(fault.peers)}" if fault.peers else ""
        lines.append(f"- step {fault.step}, {fault.name}: {', '.join(fault.containers)}{peers}")
    return Done(text="\n".join(lines), exit_code=0)
