"""A task: a unit of work that goes through the stages of a pipeline. Owned by the scheduler.

Its commands and its events; ``events.task_state`` folds them.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.agents import Agent, Limits
from events.content import EMPTY, Content
from events.kernel import Command, Event
from events.lineage import ForkedFrom
from events.pipeline import Pipeline
from events.project import Repository
from events.sandboxes import Sandbox

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


class ForkRun(Command, frozen=True, kw_only=True):
    """Submit a task that goes on from a step of ``run_id``, a run of the task that the command is for.

    ``sequence`` is the place in the log up to which it is taken over; ``prompt`` is said to the agent then. ``agent``
    is another one for the new task.
    """

    run_id: str
    sequence: int
    prompt: str = ""
    agent: str = ""


class CancelTask(Command, frozen=True, kw_only=True):
    reason: str = ""


class RetryTask(Command, frozen=True, kw_only=True):
    """Start the failed, blocked or cancelled stages of a task again, with their attempts counted from zero."""


class AnswerQuestion(Command, frozen=True, kw_only=True):
    """``call_id`` may be empty where only one question is open."""

    answer: str
    call_id: str = ""


class ResolveDivergence(Command, frozen=True, kw_only=True):
    """``choice`` is one of ``events.divergence.CHOICES``; ``run_id`` may be empty where only one run has diverged."""

    choice: str
    run_id: str = ""


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
    """``retryable`` is false where trying again cannot help (bad credentials, an unknown model). ``transient``: the
    provider flinched, which time mends; then the next attempt waits for at least ``retry_after_seconds``, a little
    longer by ``jitter`` (0–1)."""

    stage: str
    run_id: str
    cause: str
    detail: str
    retryable: bool = True
    transient: bool = False
    retry_after_seconds: float = 0.0
    jitter: float = 0.0


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


class ReportDivergence(Command, frozen=True, kw_only=True):
    """A run found the world other than the log tells (``RunDiverged``), and a person is to choose what follows."""

    run_id: str
    divergence_id: str
    kind: str
    expected: str
    found: str
    diff: Content = EMPTY


class StartStage(Command, frozen=True, kw_only=True):
    """Placement's answer: this stage runs now, with this agent. Sent by the scheduler to itself, never stored."""

    stage: str
    agent_name: str
    agent: Agent


# ---- what happened


class TaskSubmitted(Event, frozen=True, kw_only=True):
    """``submission_id`` is the id of the command, so that a repeated submission is recognised. ``forked_from`` is set
    where the task goes on from a step of another task's run."""

    specification: TaskSpecification
    number: int
    submission_id: str
    pipeline: Pipeline
    repository: Repository
    test_command: str
    max_attempts: int
    secrets: dict[str, str] = {}
    isolation: str = "worktree"
    sandbox: Sandbox = Sandbox()
    forked_from: ForkedFrom | None = None
    on_divergence: str = "ask"


class RunRequested(Event, frozen=True, kw_only=True):
    """A stage's agent is to run. ``findings`` is what an earlier attempt or a gate left for it to mend.
    ``sources`` are the environments that made the commits ``bases``; for a branch there is none. In a forked task, a
    stage's workspace begins as the checkpoint ``restore`` of the environment ``restore_source``, which lies on
    ``host``."""

    stage: str
    attempt: int
    run_id: str
    environment_id: str
    agent_name: str
    agent: Agent
    prompt: str
    bases: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    forked_from: ForkedFrom | None = None
    restore: str = ""
    restore_source: str = ""
    host: str = ""


class RunRecorded(Event, frozen=True, kw_only=True):
    """The stage's agent has done its part."""

    stage: str
    run_id: str
    result: StageResult


class RunFailureRecorded(Event, frozen=True, kw_only=True):
    """The stage's agent did not do its part. ``retry_at`` is None where there will be no further attempt. One that is
    ``transient`` does not count against the attempts: it has a budget of its own."""

    stage: str
    run_id: str
    cause: str
    detail: str
    retry_at: datetime | None = None
    transient: bool = False


class CheckRequested(Event, frozen=True, kw_only=True):
    """A stage's gate is to be evaluated, in the named environment on the named host. ``kind`` is ``tests``,
    ``experiment`` or ``pull_request``; ``command`` is the command line of the tests, or the experiment's file."""

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


class DivergenceReported(Event, frozen=True, kw_only=True):
    """A run waits until somebody has chosen what follows."""

    run_id: str
    divergence_id: str
    kind: str
    expected: str
    found: str
    diff: Content = EMPTY


class DivergenceResolved(Event, frozen=True, kw_only=True):
    run_id: str
    divergence_id: str
    choice: str
    by: str = ""


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
