"""The scheduler's own motion: start what may start whenever something changed, and send again what got lost.

A finished agent wakes placement at once; time wakes it where a retry is due. Timers are derived from the state.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence

import structlog

from events.agents import Agent, ModelAgent, ProgramAgent
from events.breaker import RequestProbe
from events.errors import CairnError, Invalid, RevisionConflict
from events.kernel import Event
from events.names import run_id
from events.preflight import Preflights
from events.task import RunRequested, StartStage
from events.task_state import Task
from infra.entities import Cause
from infra.hosts import Hosts
from infra.ports import Clock
from services.scheduler import policy
from services.scheduler.board import Board
from services.scheduler.deciders import task as task_decider
from services.scheduler.handlers import Handlers
from services.scheduler.policy import Placement
from services.scheduler.ports import Agents
from services.scheduler.prompts import fork_prompt, prompt

logger = structlog.get_logger()

# A check takes its time: it is asked for again only after so many rounds of reconciliation.
ROUNDS_BETWEEN_CHECKS = 6

ATTEMPTS = 20
CATCH_UP_SECONDS = 0.002
CATCH_UP_LOOKS = 50


class Placer:
    def __init__(
        self,
        board: Board,
        handlers: Handlers,
        agents: Agents,
        hosts: Hosts,
        clock: Clock,
        wake: asyncio.Event,
        *,
        agents_at_once: int,
        reconcile_seconds: float,
    ) -> None:
        self._board = board
        self._handlers = handlers
        self._agents = agents
        self._hosts = hosts
        self._clock = clock
        self._wake = wake
        self._agents_at_once = agents_at_once
        self._reconcile_seconds = reconcile_seconds
        self._round = 0

    def send_again_soon(self) -> None:
        """The connection came back: commands that were on their way may be lost."""
        self._round = 0

    async def run(self) -> None:
        while True:
            pause_seconds = await self._place()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause_seconds)
            self._wake.clear()

    async def reconcile(self) -> None:
        """Every round, send again the commands that tasks stand for. Receivers know those that arrived before."""
        while True:
            for task in [task for task in self._board.tasks.values() if task.ended is None and task.requests]:
                for key, request in task.requests.items():
                    if isinstance(request, RunRequested) or self._round % ROUNDS_BETWEEN_CHECKS == 0:
                        again = f"-{random.getrandbits(32):08x}"
                        cause = Cause(id=key, trace=self._board.traces.get(task.id, ""))
                        await self._handlers.dispatch(task, request, cause, again=again)
            self._round += 1
            self._board.save()
            await self._clock.sleep(self._reconcile_seconds)

    async def _place(self) -> float:
        """Start what may start; answer after how many seconds time alone may change something."""
        now = self._clock.now()
        try:
            agents = self._agents.known()
        except Invalid as error:
            logger.error("no agents can be started", error=str(error))
            return self._reconcile_seconds
        placed = policy.place(
            self._board.tasks,
            self._board.projects,
            agents,
            agents_at_once=self._agents_at_once,
            now=now,
            breakers=self._board.breakers,
            preflights=await self._preflights(agents),
        )
        for id, reason in placed.waiting.items():
            logger.debug("waiting", task=id, reason=reason)
        for placement in placed.placements:
            try:
                if await self._may(placement):
                    await self._start(placement, agents[placement.agent_name])
            except CairnError as error:
                logger.warning("not started", task=placement.task_id, stage=placement.stage, error=str(error))
                return min(1.0, self._reconcile_seconds)
        if placed.wake_at is None:
            return self._reconcile_seconds
        return max(0.01, min(self._reconcile_seconds, (placed.wake_at - now).total_seconds()))

    async def _preflights(self, agents: Mapping[str, Agent]) -> Preflights:
        """What the workers say of the programs of agents, where there is one that could be started."""
        ready = any(stage.role for task in self._board.tasks.values() for stage in task.ready_stages())
        if not ready or not any(isinstance(agent, ProgramAgent) for agent in agents.values()):
            return {}
        return await self._hosts.preflights()

    async def _may(self, placement: Placement) -> bool:
        """Whether the placement's run is the probe, where it is to be one: another may have been faster."""
        if not placement.probes:
            return True
        state = self._board.tasks[placement.task_id].stages[placement.stage]
        run = run_id(placement.task_id, placement.stage, state.attempt + 1)
        cause = Cause(id=f"{run}-probe-{self._clock.now().timestamp():.3f}", actor="scheduler")
        decision = await self._handlers.decide_breaker(placement.probes, cause, RequestProbe(run_id=run))
        return decision.state.lets(run)

    async def _start(self, placement: Placement, agent: Agent) -> None:
        task = self._board.tasks[placement.task_id]
        assert task.submitted is not None
        stage = task.submitted.pipeline.stage(placement.stage)
        state = task.stages[stage.name]
        command = StartStage(stage=stage.name, agent_name=placement.agent_name, agent=agent)
        text = prompt(
            task.submitted.specification,
            stage,
            state.findings,
            state.attempt + 1,
            test_command=task.submitted.test_command,
        )
        fork = task.submitted.forked_from
        if fork is not None and fork.stage == stage.name:
            text = fork_prompt(
                text, fork.prompt, state.findings, state.attempt + 1, has_heard=isinstance(agent, ModelAgent)
            )
        cause = Cause(
            # Another scheduler that places the same must not take this decision for its own.
            id=f"{task.id}-{stage.name}-{state.attempt + 1}-place-{random.getrandbits(32):08x}",
            actor="scheduler",
            correlation=task.submitted.submission_id,
            trace=self._board.traces.get(task.id, ""),
        )
        depends_on = [self._board.tasks[id] for id in task.submitted.specification.depends_on]
        await self._append(
            placement,
            cause,
            lambda task: task_decider.start_stage(task, command, prompt=text, depends_on=depends_on),
        )

    async def _append(self, placement: Placement, cause: Cause, decide: Callable[[Task], Sequence[Event]]) -> None:
        """Limits are about all tasks, so the log takes a placement only from a board that lacks no decision about any:
        neither a second scheduler nor one that stood still can start more than may run. Raises ``RevisionConflict``
        where the board cannot be brought up to date in time."""
        board = self._board
        for _ in range(ATTEMPTS):
            await self._catch_up()
            last_task = board.last_task
            if not policy.has_room(placement, board.tasks, board.projects, agents_at_once=self._agents_at_once):
                return
            try:
                decision = await self._handlers.decide(placement.task_id, cause, decide, last_task=last_task)
            except RevisionConflict:
                continue
            if decision.events:
                board.last_task = max(board.last_task, decision.revision)
            return
        message = f"other tasks changed {ATTEMPTS} times in a row while {placement.task_id} was to be started"
        raise RevisionConflict(message)

    async def _catch_up(self) -> None:
        """Let what came before the newest decision on the board arrive, which takes about a millisecond."""
        for _ in range(CATCH_UP_LOOKS):
            if self._board.last_task >= self._board.newest_task:
                return
            await self._clock.sleep(CATCH_UP_SECONDS)
