"""A task: a unit of work that goes through the stages of a pipeline. Owned by the scheduler.

The state of a task is the state of its stages, each one of the small structs below; the task's own status is
derived from them (``Task.status``), never stored.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.agents import Agent, Limits
from events.kernel import Command, Entity, Event, evolver, replace
from events.pipeline import Pipeline, Stage
from events.project import Repository

# ---- what a person asks for


class TaskSpecification(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to be done, as it was submitted. ``priority``: higher goes first. ``depends_on``: ids of tasks."""

    project: str
    title: str
    description: str = ""
    acceptance_criteria: tuple[str, ...] = ()
    target_files: tuple[str, ...] = ()
    test_command: str = ""
    priority: int = 0
    depends_on: tuple[str, ...] = ()
    agent: str = ""
    budget: Limits | None = None


class SubmitTask(Command, frozen=True, kw_only=True):
    specification: TaskSpecification


class CancelTask(Command, frozen=True, kw_only=True):
    reason: str = ""


class RetryTask(Command, frozen=True, kw_only=True):
    """Start the failed, blocked or cancelled stages of a task again, with their attempts counted from zero."""


class AnswerQuestion(Command, frozen=True, kw_only=True):
    """``call_id`` may be empty where only one question is open."""

    answer: str
    call_id: str = ""


class ApproveStage(Command, frozen=True, kw_only=True):
    stage: str


class RejectStage(Command, frozen=True, kw_only=True):
    stage: str
    reason: str


# ---- what other services report


class StageResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a stage leaves behind for those that need it: the environment and the commit of its last checkpoint."""

    environment_id: str = ""
    host: str = ""
    commit: str = ""
    summary: str = ""


class RecordRunSucceeded(Command, frozen=True, kw_only=True):
    stage: str
    run_id: str
    result: StageResult


class RecordRunFailed(Command, frozen=True, kw_only=True):
    """``retryable`` is false where trying again cannot help (bad credentials, an unknown model)."""

    stage: str
    run_id: str
    cause: str
    detail: str
    retryable: bool = True


class RecordCheck(Command, frozen=True, kw_only=True):
    """The answer of a gate's check. ``passed`` is None where it could not be evaluated."""

    stage: str
    check_id: str
    passed: bool | None
    summary: str
    detail: str = ""
    commit: str = ""


class AskQuestion(Command, frozen=True, kw_only=True):
    run_id: str
    call_id: str
    question: str


class StartStage(Command, frozen=True, kw_only=True):
    """Placement's answer: this stage runs now, with this agent. Sent by the scheduler to itself, never stored."""

    stage: str
    agent_name: str
    agent: Agent


# ---- what happened


class TaskSubmitted(Event, frozen=True, kw_only=True):
    """``submission_id`` is the id of the command, so that a repeated submission is recognised."""

    specification: TaskSpecification
    number: int
    submission_id: str
    pipeline: Pipeline
    repository: Repository
    test_command: str
    max_attempts: int
    secrets: dict[str, str] = {}
    isolation: str = "worktree"


class RunRequested(Event, frozen=True, kw_only=True):
    """A stage's agent is to run. ``findings`` is what an earlier attempt or a gate left for it to mend."""

    stage: str
    attempt: int
    run_id: str
    environment_id: str
    agent_name: str
    agent: Agent
    prompt: str
    bases: tuple[str, ...] = ()


class RunRecorded(Event, frozen=True, kw_only=True):
    """The stage's agent has done its part."""

    stage: str
    run_id: str
    result: StageResult


class RunFailureRecorded(Event, frozen=True, kw_only=True):
    """The stage's agent did not do its part. ``retry_at`` is None where there will be no further attempt."""

    stage: str
    run_id: str
    cause: str
    detail: str
    retry_at: datetime | None = None


class CheckRequested(Event, frozen=True, kw_only=True):
    """A stage's gate is to be evaluated, in the named environment on the named host."""

    stage: str
    attempt: int
    check_id: str
    kind: str
    environment_id: str
    host: str
    commit: str = ""
    command: str = ""
    time_limit_seconds: float = 1800.0


class GatePassed(Event, frozen=True, kw_only=True):
    stage: str
    check_id: str
    summary: str
    commit: str = ""


class GateRefused(Event, frozen=True, kw_only=True):
    """The gate was evaluated and says no."""

    stage: str
    check_id: str
    summary: str
    detail: str = ""


class GateUnevaluated(Event, frozen=True, kw_only=True):
    """The gate could not be evaluated. It never advances by that: it is checked again, or blocks the task."""

    stage: str
    check_id: str
    summary: str
    detail: str = ""


class ApprovalRequested(Event, frozen=True, kw_only=True):
    stage: str


class StageApproved(Event, frozen=True, kw_only=True):
    stage: str
    by: str = ""


class StageRejected(Event, frozen=True, kw_only=True):
    stage: str
    reason: str
    by: str = ""


class StagePassed(Event, frozen=True, kw_only=True):
    stage: str
    result: StageResult


class StageRolledBack(Event, frozen=True, kw_only=True):
    """Back to ``to`` with what is to be mended; only this counts as rework, a crash does not."""

    stage: str
    to: str
    findings: str
    rework: int


class QuestionAsked(Event, frozen=True, kw_only=True):
    run_id: str
    call_id: str
    question: str


class QuestionAnswered(Event, frozen=True, kw_only=True):
    call_id: str
    answer: str


class TaskCompleted(Event, frozen=True, kw_only=True):
    summary: str = ""


class TaskFailed(Event, frozen=True, kw_only=True):
    """An agent failed for good."""

    stage: str
    cause: str
    detail: str = ""


class TaskBlocked(Event, frozen=True, kw_only=True):
    """The work does not get through; a person has to look at it."""

    stage: str
    cause: str
    detail: str = ""


class TaskCancelled(Event, frozen=True, kw_only=True):
    reason: str = ""


class TaskReopened(Event, frozen=True, kw_only=True):
    """A person had the task tried again: the stages named start anew, with their attempts counted from zero.
    ``findings`` is what the first of them is told of the end before."""

    stages: tuple[str, ...]
    findings: str = ""


# ---- where a stage stands


class Waiting(msgspec.Struct, frozen=True, tag=True):
    """For its needs, for a slot, or, where ``retry_at`` is set, for its time."""

    retry_at: datetime | None = None


class Running(msgspec.Struct, frozen=True, tag=True):
    run_id: str


class Checking(msgspec.Struct, frozen=True, tag=True):
    check_id: str


class AwaitingApproval(msgspec.Struct, frozen=True, tag=True):
    pass


class Passed(msgspec.Struct, frozen=True, tag=True):
    pass


class Stopped(msgspec.Struct, frozen=True, tag=True):
    """Ended without passing."""

    cause: str


Position = Waiting | Running | Checking | AwaitingApproval | Passed | Stopped


class StageState(msgspec.Struct, frozen=True, kw_only=True):
    """``attempt`` numbers its runs (never reused), ``failures`` counts those that failed since the last success
    or reopening, ``checks`` numbers the evaluations of its gate, ``rework`` its roll-backs."""

    position: Position = Waiting()
    attempt: int = 0
    failures: int = 0
    checks: int = 0
    unevaluated: int = 0
    rework: int = 0
    findings: str = ""
    result: StageResult = StageResult()


class Question(msgspec.Struct, frozen=True, kw_only=True):
    run_id: str
    call_id: str
    question: str
    answer: str | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """``submitted`` is None for a task that does not exist. ``requests`` holds the last request of each running
    run and check, from which the commands that the task stands for can be derived again at any time. ``reopened``
    says that it has ended before, and was opened again since."""

    id: str
    submitted: TaskSubmitted | None = None
    stages: dict[str, StageState] = {}
    questions: tuple[Question, ...] = ()
    ended: TaskCompleted | TaskFailed | TaskBlocked | TaskCancelled | None = None
    requests: dict[str, RunRequested | CheckRequested] = {}
    reopened: bool = False

    @property
    def status(self) -> str:
        """pending, queued, running, in_review, needs_input, completed, failed, blocked or cancelled.

        ``pending`` and ``queued`` are told apart by dependencies, which only the scheduler knows: here a task
        that nothing runs for is ``queued``.
        """
        if self.ended is not None:
            return _ENDED[type(self.ended)]
        if any(question.answer is None for question in self.questions):
            return "needs_input"
        positions = [stage.position for stage in self.stages.values()]
        if any(isinstance(position, Running | Checking) for position in positions):
            return "running"
        if any(isinstance(position, AwaitingApproval) for position in positions):
            return "in_review"
        return "queued"

    def ready_stages(self) -> list[Stage]:
        """The stages whose needs have all passed and that wait for nothing but a slot or their time."""
        if self.submitted is None or self.ended is not None:
            return []
        return [
            stage
            for stage in self.submitted.pipeline.stages
            if isinstance(self.stages[stage.name].position, Waiting)
            and all(isinstance(self.stages[need].position, Passed) for need in stage.needs)
        ]


_ENDED: dict[type[Event], str] = {
    TaskCompleted: "completed",
    TaskFailed: "failed",
    TaskBlocked: "blocked",
    TaskCancelled: "cancelled",
}


def _at(task: Task, name: str, **changes: object) -> Task:
    stage = task.stages.get(name, StageState())
    return replace(task, stages={**task.stages, name: replace(stage, **changes)})


def _without_request(task: Task, id: str) -> Task:
    return replace(task, requests={key: value for key, value in task.requests.items() if key != id})


def _submitted(task: Task, event: TaskSubmitted) -> Task:
    return replace(task, submitted=event, stages={stage.name: StageState() for stage in event.pipeline.stages})


def _run_requested(task: Task, event: RunRequested) -> Task:
    task = replace(task, requests={**task.requests, event.run_id: event})
    return _at(task, event.stage, position=Running(event.run_id), attempt=event.attempt)


def _run_recorded(task: Task, event: RunRecorded) -> Task:
    task = _without_request(_settle(task, event.run_id), event.run_id)
    return _at(task, event.stage, position=Waiting(), result=event.result, failures=0, findings="")


def _run_failure(task: Task, event: RunFailureRecorded) -> Task:
    task = _without_request(_settle(task, event.run_id), event.run_id)
    failures = task.stages.get(event.stage, StageState()).failures + 1
    position: Position = Waiting(event.retry_at) if event.retry_at else Stopped(event.cause)
    findings = f"The last attempt ended with {event.cause}: {event.detail}"
    return _at(task, event.stage, position=position, failures=failures, findings=findings)


def _settle(task: Task, run: str) -> Task:
    """Questions of a run that has ended want no answer any more."""
    return replace(task, questions=tuple(item for item in task.questions if item.run_id != run))


def _check_requested(task: Task, event: CheckRequested) -> Task:
    task = replace(task, requests={**task.requests, event.check_id: event})
    return _at(task, event.stage, position=Checking(event.check_id), checks=event.attempt)


def _gate_passed(task: Task, event: GatePassed) -> Task:
    return _at(_without_request(task, event.check_id), event.stage, unevaluated=0)


def _gate_refused(task: Task, event: GateRefused) -> Task:
    return _at(_without_request(task, event.check_id), event.stage, position=Stopped("gate-refused"))


def _gate_unevaluated(task: Task, event: GateUnevaluated) -> Task:
    task = _without_request(task, event.check_id)
    count = task.stages.get(event.stage, StageState()).unevaluated + 1
    return _at(task, event.stage, position=Stopped("gate-unevaluated"), unevaluated=count)


def _without_work(task: Task, stage: str) -> Task:
    """Nobody waits any more for the run or check that the stage asked for, nor for what its run wants to know."""
    for id in [id for id, request in task.requests.items() if request.stage == stage]:
        task = _settle(_without_request(task, id), id)
    return task


def _rolled_back(task: Task, event: StageRolledBack) -> Task:
    if task.submitted is None:
        return task
    for name in task.submitted.pipeline.dependents(event.to):
        task = _at(_without_work(task, name), name, position=Waiting(), unevaluated=0)
    task = _at(task, event.to, position=Waiting(), findings=event.findings, failures=0)
    return _at(task, event.stage, rework=event.rework)


def _reopened(task: Task, event: TaskReopened) -> Task:
    for number, name in enumerate(event.stages):
        findings = event.findings if number == 0 else ""
        task = _at(task, name, position=Waiting(), failures=0, unevaluated=0, rework=0, findings=findings)
    return replace(task, ended=None, reopened=True)


def _ended(task: Task, event: TaskCompleted | TaskFailed | TaskBlocked | TaskCancelled) -> Task:
    task = replace(task, ended=event, questions=(), requests={}, reopened=False)
    for name, stage in task.stages.items():
        if isinstance(stage.position, Running | Checking | AwaitingApproval):
            task = _at(task, name, position=Stopped(_ENDED[type(event)]))
    return task


def _asked(task: Task, event: QuestionAsked) -> Task:
    question = Question(run_id=event.run_id, call_id=event.call_id, question=event.question)
    return replace(task, questions=(*task.questions, question))


def _answered(task: Task, event: QuestionAnswered) -> Task:
    return replace(
        task,
        questions=tuple(
            replace(item, answer=event.answer) if item.call_id == event.call_id else item for item in task.questions
        ),
    )


TASK: Entity[Task] = Entity(
    name="task",
    initial=lambda id: Task(id=id),
    evolve=evolver(
        {
            TaskSubmitted: _submitted,
            RunRequested: _run_requested,
            RunRecorded: _run_recorded,
            RunFailureRecorded: _run_failure,
            CheckRequested: _check_requested,
            GatePassed: _gate_passed,
            GateRefused: _gate_refused,
            GateUnevaluated: _gate_unevaluated,
            ApprovalRequested: lambda task, event: _at(task, event.stage, position=AwaitingApproval()),
            StageRejected: lambda task, event: _at(task, event.stage, position=Stopped("rejected")),
            StagePassed: lambda task, event: _at(
                task, event.stage, position=Passed(), result=event.result, findings="", failures=0
            ),
            StageRolledBack: _rolled_back,
            QuestionAsked: _asked,
            QuestionAnswered: _answered,
            TaskReopened: _reopened,
            TaskCompleted: _ended,
            TaskFailed: _ended,
            TaskBlocked: _ended,
            TaskCancelled: _ended,
        }
    ),
)
