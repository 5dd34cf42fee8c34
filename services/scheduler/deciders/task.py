"""What may be said about a task, and what follows from it: one engine decides every advance of every stage,
whether an agent finished, a gate answered or a person did.

Each function takes the state and a command and answers with events; a repeated command answers with none.
``advance`` is the heart: after any change it lets every stage go as far as it can without an agent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from events.backoff import backoff
from events.errors import CommandRejected, Invalid, NotFound
from events.kernel import Event
from events.names import check_id, environment_id, run_id
from events.pipeline import EXPERIMENT_GATE, ExperimentGate, PullRequestGate, Stage, TestsGate
from events.project import ProjectSettings
from events.task import (
    AnswerQuestion,
    ApprovalRequested,
    ApproveStage,
    AskQuestion,
    CancelTask,
    CheckRequested,
    GatePassed,
    GateRefused,
    GateUnevaluated,
    QuestionAnswered,
    QuestionAsked,
    RecordCheck,
    RecordRunFailed,
    RecordRunSucceeded,
    RejectStage,
    RunFailureRecorded,
    RunRecorded,
    RunRequested,
    StageApproved,
    StagePassed,
    StageRejected,
    StageResult,
    StageRolledBack,
    StartStage,
    SubmitTask,
    TaskBlocked,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskReopened,
    TaskSubmitted,
)
from events.task_state import TASK, AwaitingApproval, Checking, Passed, Running, StageState, Stopped, Task
from services.scheduler.deciders import dependencies
from services.scheduler.deciders.dependencies import Base

MAX_UNEVALUATED = 3
KINDS: dict[Any, str] = {TestsGate: "tests", PullRequestGate: "pull_request", ExperimentGate: EXPERIMENT_GATE}

Events = tuple[Event, ...]


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """How a stage is tried again: ``delay_seconds`` after a failed run; after one that its provider left without
    answers ``transient_attempts`` times at most, with a wait that begins at ``backoff_seconds`` and doubles."""

    delay_seconds: float = 1.0
    transient_attempts: int = 5
    backoff_seconds: float = 10.0


class TaskEnded(CommandRejected):
    """The task has ended; only a retry opens it again."""

    slug = "task-ended"


class NoOpenQuestion(CommandRejected):
    """Nobody waits for that answer."""

    slug = "no-open-question"


class NotAwaitingApproval(CommandRejected):
    """The stage does not wait for a person."""

    slug = "not-awaiting-approval"


def submit(task: Task, command: SubmitTask, *, number: int, submission_id: str, project: ProjectSettings) -> Events:
    if task.submitted is not None:
        return ()
    specification = command.specification
    if not specification.title.strip():
        message = "a task needs a title: say in a line what is to be done."
        raise Invalid(message)
    submitted = TaskSubmitted(
        specification=specification,
        number=number,
        submission_id=submission_id,
        pipeline=project.pipeline,
        repository=project.repository,
        test_command=specification.test_command or project.test_command,
        max_attempts=project.max_attempts,
        secrets=project.secrets,
        isolation=project.isolation,
        sandbox=project.sandbox,
        on_divergence=project.on_divergence,
    )
    return _and_advance(task, submitted)


def start_stage(task: Task, command: StartStage, *, prompt: str, depends_on: Sequence[Task] = ()) -> Events:
    """Give a ready stage to an agent. Nothing where it is not ready any more. ``depends_on`` are the tasks that this
    one depends on, which have completed."""
    stage = next((stage for stage in task.ready_stages() if stage.name == command.stage and stage.role), None)
    if stage is None or task.submitted is None:
        return ()
    attempt = task.stages[stage.name].attempt + 1
    works = [work for need in stage.needs if (work := task.stages[need].result).commit]
    environment = environment_id(task.id, stage.name)
    taken_over = _taken_over(task, stage, environment)
    bases = [Base(work.commit, work.environment_id) for work in works]
    if not bases and not taken_over.commit:  # The task's first work begins from that of the tasks it depends on.
        bases = dependencies.bases(depends_on)
    fork = task.submitted.forked_from
    return (
        RunRequested(
            stage=stage.name,
            attempt=attempt,
            run_id=run_id(task.id, stage.name, attempt),
            environment_id=environment,
            agent_name=command.agent_name,
            agent=command.agent,
            prompt=prompt,
            bases=tuple(base.name for base in bases),
            sources=tuple(base.source for base in bases) if any(base.source for base in bases) else (),
            forked_from=fork if fork is not None and fork.stage == stage.name else None,
            restore=taken_over.commit,
            restore_source=taken_over.environment_id,
            host=taken_over.host,
        ),
    )


def _taken_over(task: Task, stage: Stage, environment: str) -> StageResult:
    """The work of another task that the stage of a forked task begins with; empty where it begins anew."""
    fork = task.submitted.forked_from if task.submitted is not None else None
    if fork is None:
        return StageResult()
    if stage.name == fork.stage:
        return StageResult(environment_id=fork.environment_id, host=fork.host, commit=fork.commit)
    result = task.stages[stage.name].result
    return result if result.environment_id != environment else StageResult()


def record_run_succeeded(task: Task, command: RecordRunSucceeded) -> Events:
    if not _runs(task, command.stage, command.run_id):
        return ()
    recorded = RunRecorded(stage=command.stage, run_id=command.run_id, result=command.result)
    return _then(task, recorded, lambda task: _after_agent(task, _stage(task, command.stage)))


def record_run_failed(task: Task, command: RecordRunFailed, *, now: datetime, retries: Retries) -> Events:
    if not _runs(task, command.stage, command.run_id) or task.submitted is None:
        return ()
    state = task.stages[command.stage]
    if command.transient:
        again = command.retryable and state.starved < retries.transient_attempts
        seconds = backoff(
            state.starved,
            first_seconds=retries.backoff_seconds,
            least_seconds=command.retry_after_seconds,
            jitter=command.jitter,
        )
    else:
        again = command.retryable and state.failures + 1 < task.submitted.max_attempts
        seconds = retries.delay_seconds
    recorded = RunFailureRecorded(
        stage=command.stage,
        run_id=command.run_id,
        cause=command.cause,
        detail=command.detail,
        retry_at=now + timedelta(seconds=seconds) if again else None,
        transient=command.transient,
    )
    if again:
        return (recorded,)
    return (recorded, TaskFailed(stage=command.stage, cause=command.cause, detail=command.detail))


def record_check(task: Task, command: RecordCheck) -> Events:
    state = task.stages.get(command.stage)
    if task.ended is not None or state is None or state.position != Checking(command.check_id):
        return ()
    stage = _stage(task, command.stage)
    if command.passed is None:
        unevaluated = GateUnevaluated(
            stage=stage.name, check_id=command.check_id, summary=command.summary, detail=command.detail
        )
        if state.unevaluated + 1 < MAX_UNEVALUATED:
            return _then(task, unevaluated, lambda task: _check(task, stage))
        return (unevaluated, TaskBlocked(stage=stage.name, cause="gate-unevaluated", detail=command.summary))
    if command.passed:
        passed = GatePassed(stage=stage.name, check_id=command.check_id, summary=command.summary, commit=command.commit)
        return _then(task, passed, lambda task: _after_gate(task, stage, command))
    refused = GateRefused(stage=stage.name, check_id=command.check_id, summary=command.summary, detail=command.detail)
    findings = f"{command.summary}\n\n{command.detail}".strip()
    if not stage.rollback_to:
        return (refused, TaskBlocked(stage=stage.name, cause="gate-refused", detail=findings))
    if state.rework >= stage.rollback_limit:
        detail = f"It was sent back {state.rework} times. {findings}"
        return (refused, TaskBlocked(stage=stage.name, cause="rework-limit", detail=detail))
    back = StageRolledBack(stage=stage.name, to=stage.rollback_to, findings=findings, rework=state.rework + 1)
    return (refused, *_and_advance(TASK.evolve(task, refused), back))


def cancel(task: Task, command: CancelTask) -> Events:
    existing(task)
    if isinstance(task.ended, TaskCancelled):
        return ()
    if task.ended is not None:
        message = f"task {task.id} has ended already: it is {task.status}."
        raise TaskEnded(message)
    return (TaskCancelled(reason=command.reason),)


def retry(task: Task) -> Events:
    """Open an ended task again at the stages that stopped, or at those that their failed gates lead back to."""
    existing(task)
    if task.submitted is None or task.ended is None:
        if task.reopened:
            return ()
        message = f"task {task.id} has not ended: it is {task.status}; there is nothing to try again."
        raise CommandRejected(message, slug="task-not-ended")
    if isinstance(task.ended, TaskCompleted):
        message = f"task {task.id} is completed; submit a new task for more."
        raise TaskEnded(message)
    again: set[str] = set()
    for stage in task.submitted.pipeline.stages:
        if isinstance(task.stages[stage.name].position, Stopped):
            start = stage.rollback_to or stage.name
            again |= {start} | task.submitted.pipeline.dependents(start)
    ordered = tuple(stage.name for stage in task.submitted.pipeline.stages if stage.name in again)
    findings = "" if isinstance(task.ended, TaskCancelled) else f"{task.ended.cause}: {task.ended.detail}"
    return _and_advance(task, TaskReopened(stages=ordered, findings=findings))


def ask(task: Task, command: AskQuestion) -> Events:
    if task.ended is not None or any(item.call_id == command.call_id for item in task.questions):
        return ()
    if not any(state.position == Running(command.run_id) for state in task.stages.values()):
        return ()
    return (QuestionAsked(run_id=command.run_id, call_id=command.call_id, question=command.question),)


def answer(task: Task, command: AnswerQuestion) -> Events:
    existing(task)
    named = [item for item in task.questions if command.call_id in ("", item.call_id)]
    waiting = [item for item in named if item.answer is None]
    if not waiting:
        if any(item.answer == command.answer for item in named):
            return ()
        message = f"task {task.id} has no open question{f' {command.call_id}' if command.call_id else ''}."
        raise NoOpenQuestion(message)
    if len(waiting) > 1:
        ids = ", ".join(item.call_id for item in waiting)
        message = f"task {task.id} has several open questions: say which one is answered ({ids})."
        raise Invalid(message)
    return (QuestionAnswered(call_id=waiting[0].call_id, answer=command.answer),)


def approve(task: Task, command: ApproveStage, *, by: str) -> Events:
    stage = _approvable(task, command.stage)
    if stage is None:
        return ()
    return _then(task, StageApproved(stage=stage.name, by=by), lambda task: _pass(task, stage))


def reject(task: Task, command: RejectStage, *, by: str) -> Events:
    """A person's no goes back one stage: to where the stage rolls back to, its own agent, or the one before it."""
    stage = _approvable(task, command.stage)
    if stage is None:
        message = f"stage {command.stage!r} of task {task.id} has passed already."
        raise NotAwaitingApproval(message)
    rejected = StageRejected(stage=stage.name, reason=command.reason, by=by)
    assert task.submitted is not None
    to = stage.rollback_to or task.submitted.pipeline.worker(stage.name)
    if not to:
        return (rejected, TaskBlocked(stage=stage.name, cause="rejected", detail=command.reason))
    rework = task.stages[stage.name].rework + 1
    back = StageRolledBack(stage=stage.name, to=to, findings=command.reason, rework=rework)
    return (rejected, *_and_advance(TASK.evolve(task, rejected), back))


# ---- the engine


def advance(task: Task) -> Events:
    """Let every ready stage that needs no agent begin, and end the task where all have passed."""
    if task.submitted is None or task.ended is not None:
        return ()
    events: list[Event] = []
    while task.ended is None and (stage := _first_without_agent(task)) is not None:
        following = _after_agent(task, stage)
        task = TASK.fold_onto(task, following)
        events.extend(following)
    if task.ended is None and all(isinstance(state.position, Passed) for state in task.stages.values()):
        last = task.stages[task.submitted.pipeline.stages[-1].name] if task.submitted else StageState()
        events.append(TaskCompleted(summary=last.result.summary))
    return tuple(events)


def _first_without_agent(task: Task) -> Stage | None:
    return next((stage for stage in task.ready_stages() if not stage.role), None)


def _after_agent(task: Task, stage: Stage) -> Events:
    return _check(task, stage) if stage.gate is not None else _after_gate(task, stage)


def _check(task: Task, stage: Stage) -> Events:
    """Ask the gate. A tests gate without any command has nothing to ask."""
    assert task.submitted is not None
    source = _work(task, stage)
    attempt = task.stages[stage.name].checks + 1
    command = ""
    time_limit_seconds = stage.time_limit_seconds
    if isinstance(stage.gate, ExperimentGate):
        command, time_limit_seconds = stage.gate.document, stage.gate.time_limit_seconds
    if isinstance(stage.gate, TestsGate):
        command = stage.gate.command or task.submitted.test_command
        time_limit_seconds = stage.gate.time_limit_seconds
        if not command:
            return _after_gate(task, stage)
    return (
        CheckRequested(
            stage=stage.name,
            attempt=attempt,
            check_id=check_id(task.id, stage.name, attempt),
            kind=KINDS[type(stage.gate)],
            environment_id=source.environment_id,
            host=source.host,
            commit=source.commit,
            command=command,
            time_limit_seconds=time_limit_seconds,
        ),
    )


def _after_gate(task: Task, stage: Stage, check: RecordCheck | None = None) -> Events:
    if stage.approval:
        return (ApprovalRequested(stage=stage.name),)
    return _pass(task, stage, check)


def _pass(task: Task, stage: Stage, check: RecordCheck | None = None) -> Events:
    work = _work(task, stage)
    result = StageResult(
        environment_id=work.environment_id,
        host=work.host,
        commit=(check.commit if check else "") or work.commit,
        summary=check.summary if check and not stage.role else work.summary,
    )
    return _and_advance(task, StagePassed(stage=stage.name, result=result))


def _work(task: Task, stage: Stage) -> StageResult:
    """What the stage's gate looks at: its own agent's work, else that of the stage it needs."""
    own = task.stages[stage.name].result
    if stage.role or not stage.needs:
        return own
    return task.stages[stage.needs[0]].result


def _then(task: Task, event: Event, following: Callable[[Task], Events]) -> Events:
    return (event, *following(TASK.fold_onto(task, (event,))))


def _and_advance(task: Task, event: Event) -> Events:
    return _then(task, event, advance)


def _stage(task: Task, name: str) -> Stage:
    assert task.submitted is not None
    return task.submitted.pipeline.stage(name)


def _runs(task: Task, stage: str, run: str) -> bool:
    state = task.stages.get(stage)
    return task.ended is None and state is not None and state.position == Running(run)


def existing(task: Task) -> None:
    if task.submitted is None:
        message = f"there is no task {task.id!r}."
        raise NotFound(message, slug="task-not-found")


def _approvable(task: Task, name: str) -> Stage | None:
    """The stage that waits for a person; None where it has passed; else ``NotAwaitingApproval``."""
    existing(task)
    state = task.stages.get(name)
    if state is None:
        message = f"task {task.id} has no stage {name!r}; it has {', '.join(task.stages)}."
        raise NotFound(message, slug="stage-not-found")
    if isinstance(state.position, AwaitingApproval):
        return _stage(task, name)
    if isinstance(state.position, Passed):
        return None
    message = f"stage {name!r} of task {task.id} does not wait for approval: it is {type(state.position).__name__}."
    raise NotAwaitingApproval(message)
