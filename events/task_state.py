"""The state of a task: the state of its stages, each one of the small structs below, folded from its events.

The task's own status is derived from them (``Task.status``), never stored.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.kernel import Entity, Event, evolver, replace
from events.pipeline import Stage
from events.task import (
    ApprovalRequested,
    CheckRequested,
    DivergenceReported,
    DivergenceResolved,
    GatePassed,
    GateRefused,
    GateUnevaluated,
    QuestionAnswered,
    QuestionAsked,
    RunFailureRecorded,
    RunRecorded,
    RunRequested,
    StagePassed,
    StageRejected,
    StageResult,
    StageRolledBack,
    TaskBlocked,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskReopened,
    TaskSubmitted,
)


class Waiting(msgspec.Struct, frozen=True, tag=True):
    """For its needs, for a slot, or, where ``retry_at`` is set, for its time. ``reason`` is what it recovers from."""

    retry_at: datetime | None = None
    reason: str = ""


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
    or reopening, ``starved`` those beside them that its provider left without answers, ``checks`` numbers the
    evaluations of its gate, ``rework`` its roll-backs."""

    position: Position = Waiting()
    attempt: int = 0
    failures: int = 0
    starved: int = 0
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


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """``choice`` is empty until somebody chose; ``by`` is who did."""

    reported: DivergenceReported
    choice: str = ""
    by: str = ""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """``submitted`` is None for a task that does not exist. ``requests`` holds the last request of each running
    run and check, from which the commands that the task stands for can be derived again at any time. ``reopened``
    says that it has ended before, and was opened again since."""

    id: str
    submitted: TaskSubmitted | None = None
    stages: dict[str, StageState] = {}
    questions: tuple[Question, ...] = ()
    divergences: tuple[Divergence, ...] = ()
    ended: TaskCompleted | TaskFailed | TaskBlocked | TaskCancelled | None = None
    requests: dict[str, RunRequested | CheckRequested] = {}
    reopened: bool = False

    @property
    def status(self) -> str:
        """pending, queued, running, in_review, needs_input, diverged, completed, failed, blocked or cancelled.

        ``pending`` and ``queued`` are told apart by dependencies, which only the scheduler knows: here a task
        that nothing runs for is ``queued``.
        """
        if self.ended is not None:
            return _ENDED[type(self.ended)]
        if any(not divergence.choice for divergence in self.divergences):
            return "diverged"
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
    return replace(
        task,
        requests={key: value for key, value in task.requests.items() if key != id},
        divergences=tuple(item for item in task.divergences if item.reported.run_id != id),
    )


def _submitted(task: Task, event: TaskSubmitted) -> Task:
    return replace(task, submitted=event, stages={stage.name: StageState() for stage in event.pipeline.stages})


def _run_requested(task: Task, event: RunRequested) -> Task:
    task = replace(task, requests={**task.requests, event.run_id: event})
    return _at(task, event.stage, position=Running(event.run_id), attempt=event.attempt)


def _run_recorded(task: Task, event: RunRecorded) -> Task:
    task = _without_request(_settle(task, event.run_id), event.run_id)
    return _at(task, event.stage, position=Waiting(), result=event.result, failures=0, starved=0, findings="")


def _run_failure(task: Task, event: RunFailureRecorded) -> Task:
    task = _without_request(_settle(task, event.run_id), event.run_id)
    before = task.stages.get(event.stage, StageState())
    reason = f"The last attempt ended with {event.cause}: {event.detail}"
    position: Position = Waiting(event.retry_at, reason) if event.retry_at else Stopped(event.cause)
    if event.transient:  # Nothing that the next attempt could mend.
        return _at(task, event.stage, position=position, starved=before.starved + 1)
    return _at(task, event.stage, position=position, failures=before.failures + 1, findings=reason)


def _settle(task: Task, run: str) -> Task:
    """Questions and divergences of a run that has ended want no answer any more."""
    return replace(
        task,
        questions=tuple(item for item in task.questions if item.run_id != run),
        divergences=tuple(item for item in task.divergences if item.reported.run_id != run),
    )


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
    task = _at(task, event.to, position=Waiting(), findings=event.findings, failures=0, starved=0)
    return _at(task, event.stage, rework=event.rework)


def _reopened(task: Task, event: TaskReopened) -> Task:
    for number, name in enumerate(event.stages):
        findings = event.findings if number == 0 else ""
        task = _at(task, name, position=Waiting(), failures=0, starved=0, unevaluated=0, rework=0, findings=findings)
    return replace(task, ended=None, reopened=True)


def _ended(task: Task, event: TaskCompleted | TaskFailed | TaskBlocked | TaskCancelled) -> Task:
    task = replace(task, ended=event, questions=(), divergences=(), requests={}, reopened=False)
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


def _resolved(task: Task, event: DivergenceResolved) -> Task:
    return replace(
        task,
        divergences=tuple(
            replace(item, choice=event.choice, by=event.by)
            if item.reported.divergence_id == event.divergence_id
            else item
            for item in task.divergences
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
                task, event.stage, position=Passed(), result=event.result, findings="", failures=0, starved=0
            ),
            StageRolledBack: _rolled_back,
            QuestionAsked: _asked,
            QuestionAnswered: _answered,
            DivergenceReported: lambda task, event: replace(
                task, divergences=(*task.divergences, Divergence(reported=event))
            ),
            DivergenceResolved: _resolved,
            TaskReopened: _reopened,
            TaskCompleted: _ended,
            TaskFailed: _ended,
            TaskBlocked: _ended,
            TaskCancelled: _ended,
        }
    ),
)
