"""Commands of people and reports of other services, each in the same steps: load, decide, append, send what follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import structlog

from events import names, subjects
from events.breaker import BREAKER, Breaker, RecordProviderAnswer, RecordProviderFault, RequestProbe
from events.envelope import CommandEnvelope, Outcome
from events.environment import ReconcileEnvironment
from events.errors import CommandRejected, Invalid, NotFound, Transient
from events.kernel import Event, replace
from events.project import PROJECT, AddProject
from events.task import (
    AnswerQuestion,
    ApproveStage,
    AskQuestion,
    CancelTask,
    CheckRequested,
    ForkRun,
    RecordCheck,
    RecordRunFailed,
    RecordRunSucceeded,
    RejectStage,
    ReportDivergence,
    ResolveDivergence,
    RetryTask,
    RunRequested,
    SubmitTask,
)
from events.task_state import TASK, Task
from infra.entities import Cause, Decision, EntityStore
from infra.hosts import Hosts
from infra.ports import Clock, EventLog
from infra.sender import Sender
from infra.settings import Scheduling
from services.scheduler import policy
from services.scheduler.board import Board
from services.scheduler.deciders import breaker as breaker_decider
from services.scheduler.deciders import divergence as divergence_decider
from services.scheduler.deciders import fork as fork_decider
from services.scheduler.deciders import project as project_decider
from services.scheduler.deciders import task as task_decider
from services.scheduler.deciders.task import Retries
from services.scheduler.forks import find_source, left_behind
from services.scheduler.ports import Agents

logger = structlog.get_logger()

# What they stand for depends on when they are carried out: unlike reports, they name no run or check that they are of.
OF_PEOPLE = (AnswerQuestion, ApproveStage, CancelTask, RejectStage, ResolveDivergence, RetryTask)


class Handlers:
    """``changed`` is called after every decision: something may be ready to start."""

    def __init__(
        self,
        log: EventLog,
        sender: Sender,
        clock: Clock,
        board: Board,
        agents: Agents,
        hosts: Hosts,
        changed: Callable[[], None],
        scheduling: Scheduling,
    ) -> None:
        self._log = log
        self._tasks = EntityStore(log, TASK, clock)
        self._breakers = EntityStore(log, BREAKER, clock)
        self._projects = EntityStore(log, PROJECT, clock)
        self._sender = sender
        self._clock = clock
        self._board = board
        self._agents = agents
        self._hosts = hosts
        self._changed = changed
        self._scheduling = scheduling
        self._retries = Retries(
            delay_seconds=scheduling.retry_delay_seconds,
            transient_attempts=scheduling.transient_attempts,
            backoff_seconds=scheduling.backoff_seconds,
        )

    async def handle(self, envelope: CommandEnvelope) -> Outcome:
        command = envelope.command
        if isinstance(command, AddProject):
            return await self._add_project(envelope, command)
        if isinstance(command, SubmitTask):
            return await self._submit(envelope, command)
        if isinstance(command, ForkRun):
            return await self._fork(envelope, command)
        if isinstance(command, RecordProviderFault | RecordProviderAnswer | RequestProbe):
            decided = await self.decide_breaker(envelope.entity_id, Cause.of(envelope), command)
            return _accepted(BREAKER.name, envelope.entity_id, decided)
        cause = Cause.of(envelope, "-resolved" if isinstance(command, ResolveDivergence) else "")
        if isinstance(command, OF_PEOPLE) and await self._is_decided(TASK.name, envelope.entity_id, cause):
            return Outcome(accepted=True, entity=TASK.name, entity_id=envelope.entity_id)
        said = ""
        if isinstance(command, ResolveDivergence) and command.choice == "fork":
            said = await self._fork_diverged(envelope, command)
        decision = await self.decide(envelope.entity_id, cause, lambda task: self._decide(task, envelope))
        if isinstance(command, ReportDivergence | ResolveDivergence):
            await self._settle_checks(envelope, decision.state)
        return replace(_accepted(TASK.name, decision.state.id, decision), message=said)

    async def _is_decided(self, entity: str, id: str, cause: Cause) -> bool:
        """Whether a command that comes again was carried out: however much has happened since, it is not once more."""
        return any(record.envelope.id == cause.id for record in await self._log.load(entity, id))

    async def decide(
        self, id: str, cause: Cause, decide: Callable[[Task], Sequence[Event]], *, last_task: int | None = None
    ) -> Decision[Task]:
        """Make a decision about a task, put it on the board, and send the commands that it stands for. One that stands
        on the whole board names the ``last_task`` of it; raises ``RevisionConflict`` where there is a newer one."""
        before = self._board.tasks.get(id)
        # Another scheduler may have been at it: what is kept here must not say that there is nothing to decide.
        await self._tasks.load(id)
        decision = await self._tasks.decide(id, cause, decide, last_of_kind=last_task)
        if decision.events:
            self._board.put_task(decision.state, decision.revision)
            if cause.trace:
                # What follows may start before the record comes back from the log.
                self._board.traces.setdefault(id, cause.trace)
            for key, request in decision.state.requests.items():
                if before is None or key not in before.requests:
                    await self.dispatch(decision.state, request, cause)
            logger.info("decided", task=id, events=[type(event).__name__ for event in decision.events])
            self._changed()
        return decision

    async def decide_breaker(
        self, id: str, cause: Cause, command: RecordProviderFault | RecordProviderAnswer | RequestProbe
    ) -> Decision[Breaker]:
        def decide(breaker: Breaker) -> Sequence[Event]:
            if isinstance(command, RecordProviderAnswer):
                return breaker_decider.record_answer(breaker, command)
            now = self._clock.now()
            if isinstance(command, RequestProbe):
                is_probing = policy.is_probing(breaker, self._board.tasks)
                return breaker_decider.request_probe(breaker, command, now=now, is_probing=is_probing)
            return breaker_decider.record_fault(
                breaker,
                command,
                now=now,
                failures=self._scheduling.breaker_failures,
                open_seconds=self._scheduling.breaker_seconds,
            )

        decision = await self._breakers.decide(id, cause, decide)
        if decision.events:
            self._board.put_breaker(decision.state, decision.revision)
            logger.info("decided", breaker=id, events=[type(event).__name__ for event in decision.events])
            self._changed()
        return decision

    async def dispatch(
        self, task: Task, request: RunRequested | CheckRequested, cause: Cause, *, again: str = ""
    ) -> None:
        """Send the command that a request stands for. What gets lost on the way is sent again by reconciliation."""
        command = policy.command_for(task, request)
        try:
            host = "" if isinstance(request, RunRequested) else await self._present_host(request.host)
            if isinstance(request, RunRequested):
                await self._sender.send(
                    subjects.AGENT_RUNNER,
                    subjects.ANY,
                    subjects.RUN_TOKEN,
                    request.run_id,
                    command,
                    command_id=f"{request.run_id}-start{again}",
                    cause=cause,
                )
            elif request.kind == "pull_request":
                await self._sender.send(
                    subjects.ENVIRONMENT_MANAGER,
                    host,
                    "environment",
                    request.environment_id,
                    command,
                    command_id=f"{request.check_id}-publish{again}",
                    cause=cause,
                )
            else:
                self._sender.cast(
                    subjects.ENVIRONMENT_MANAGER,
                    host,
                    subjects.CALL_TOKEN,
                    request.environment_id,
                    command,
                    command_id=f"{request.check_id}{again}",
                    cause=cause,
                )
        except Transient as error:
            logger.warning("not sent yet", task=task.id, command=type(command).__name__, error=str(error))

    async def _present_host(self, host: str) -> str:
        """Where a command for an environment of ``host`` goes: any host that lives knows how to take it from there."""
        if not await self._hosts.is_gone(host):
            return host
        return next(iter(await self._hosts.living()), host)

    async def _add_project(self, envelope: CommandEnvelope, command: AddProject) -> Outcome:
        taken = {
            project.settings.prefix
            for project in self._board.projects.values()
            if project.settings is not None and project.id != envelope.entity_id
        }
        cause = Cause.of(envelope)
        if await self._is_decided(PROJECT.name, envelope.entity_id, cause):
            return Outcome(accepted=True, entity=PROJECT.name, entity_id=envelope.entity_id)
        await self._projects.load(envelope.entity_id)
        decision = await self._projects.decide(
            envelope.entity_id,
            cause,
            lambda project: project_decider.add(project, command, taken_prefixes=taken),
        )
        self._board.put_project(decision.state, decision.revision)
        return _accepted(PROJECT.name, envelope.entity_id, decision)

    async def _submit(self, envelope: CommandEnvelope, command: SubmitTask) -> Outcome:
        await self._look_up(envelope.entity_id, command.specification.depends_on[: policy.MAX_DEPENDENCIES])
        project = self._board.projects.get(envelope.entity_id)
        if project is None or project.settings is None:
            message = f"there is no project {envelope.entity_id!r}: add it with `cairn project add`."
            raise NotFound(message, slug="project-not-found")
        settings = project.settings
        if command.specification.project != project.id:
            message = f"the task names project {command.specification.project!r}, and was sent to {project.id!r}."
            raise Invalid(message)
        agent = command.specification.agent
        roles = {stage.role for stage in settings.pipeline.stages if stage.role}
        self._check_agents({agent or settings.roles.get(role, role) for role in roles})

        def submit(task: Task, number: int) -> Sequence[Event]:
            depends_on = command.specification.depends_on
            if task.submitted is None:
                policy.check_dependencies(task.id, project.id, depends_on, self._board.tasks)
            return task_decider.submit(task, command, number=number, submission_id=envelope.id, project=settings)

        return await self._numbered(envelope, settings.prefix, submit)

    async def _look_up(self, project: str, tasks: Sequence[str]) -> None:
        """Have them on the board, if they are in the log: another scheduler may have made them just now."""
        if project not in self._board.projects:
            self._board.put_project(*await self._projects.load(project))
        for task in tasks:
            if task not in self._board.tasks:
                self._board.put_task(*await self._tasks.load(task))

    async def _fork(self, envelope: CommandEnvelope, command: ForkRun) -> Outcome:
        self._check_agents({command.agent} if command.agent else set())
        source = await find_source(self._log, envelope.entity_id, command)
        prefix = envelope.entity_id.rpartition("-")[0]
        outcome = await self._numbered(
            envelope,
            prefix,
            lambda task, number: fork_decider.fork(
                task, command, source=source.task, point=source.point, number=number, submission_id=envelope.id
            ),
        )
        task = self._board.tasks[outcome.entity_id]
        assert task.submitted is not None
        stage = task.submitted.pipeline.stage(source.point.stage)
        agent = self._agents.known().get(policy.agent_of(task, stage, self._board.projects))
        return replace(outcome, message=left_behind(source, agent))

    async def _fork_diverged(self, envelope: CommandEnvelope, command: ResolveDivergence) -> str:
        """Another task goes on from the last durable step of the run that waits: which, and what it leaves behind."""
        task, _ = await self._tasks.load(envelope.entity_id)
        reported = divergence_decider.waiting(task, command)
        if reported is None:
            return ""
        run = divergence_decider.run_to_fork(task, reported)
        fork = ForkRun(run_id=run, sequence=await self._log.last_sequence())
        outcome = await self._fork(envelope, fork)
        return f"Task {outcome.entity_id} goes on from there. {outcome.message}".rstrip()

    async def _settle_checks(self, envelope: CommandEnvelope, task: Task) -> None:
        """Have carried out what was chosen for the workspaces that gates wait for, then ask for the checks again."""
        for check, choice in divergence_decider.to_carry_out(task):
            cause = Cause.of(envelope)
            await self._sender.send(
                subjects.ENVIRONMENT_MANAGER,
                check.host,
                "environment",
                check.environment_id,
                ReconcileEnvironment(choice=choice),
                command_id=f"{envelope.id}-{check.check_id}-{choice}",
                cause=cause,
            )
            await self.dispatch(task, check, cause, again=f"-{envelope.id}")

    async def _numbered(
        self, envelope: CommandEnvelope, prefix: str, decide: Callable[[Task, int], Sequence[Event]]
    ) -> Outcome:
        """Decide about the next task of the prefix; a repeated command gets the task that it got the first time."""
        while True:
            number = self._board.next_number(prefix)
            id = self._board.task_of_submission(envelope.id) or names.task_id(prefix, number)
            decision = await self.decide(
                id,
                Cause.of(envelope),
                lambda task, number=number: decide(task, number),  # type: ignore[misc]
            )
            self._board.put_task(decision.state, decision.revision)
            if decision.state.submitted is not None and decision.state.submitted.submission_id == envelope.id:
                return _accepted(TASK.name, id, decision)

    def _check_agents(self, wanted: set[str]) -> None:
        agents = self._agents.known()
        unknown = sorted(wanted - agents.keys())
        if unknown:
            configured = ", ".join(sorted(agents)) or "none"
            message = f"there is no agent {unknown[0]!r}; configured in cairn.toml: {configured}."
            raise Invalid(message, slug="unknown-agent")

    def _decide(self, task: Task, envelope: CommandEnvelope) -> Sequence[Event]:
        match envelope.command:
            case RecordRunSucceeded() as command:
                return task_decider.record_run_succeeded(task, command)
            case RecordRunFailed() as command:
                return task_decider.record_run_failed(task, command, now=self._clock.now(), retries=self._retries)
            case RecordCheck() as command:
                return task_decider.record_check(task, command)
            case AskQuestion() as command:
                return task_decider.ask(task, command)
            case AnswerQuestion() as command:
                return task_decider.answer(task, command)
            case ReportDivergence() as command:
                return divergence_decider.report(task, command)
            case ResolveDivergence() as command:
                return divergence_decider.resolve(task, command, by=envelope.actor)
            case CancelTask() as command:
                return task_decider.cancel(task, command)
            case RetryTask():
                return task_decider.retry(task)
            case ApproveStage() as command:
                return task_decider.approve(task, command, by=envelope.actor)
            case RejectStage() as command:
                return task_decider.reject(task, command, by=envelope.actor)
            case command:
                message = f"{type(command).__name__} is no command for a task."
                raise CommandRejected(message, slug="unknown-command", status=400)


def _accepted(entity: str, id: str, decision: Decision[Any]) -> Outcome:
    return Outcome(
        accepted=True,
        entity=entity,
        entity_id=id,
        sequence=decision.revision,
        events=tuple(type(event).__name__ for event in decision.events),
    )
