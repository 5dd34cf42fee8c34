"""Histories of a whole installation, as the deciders would write them, made from a list of numbers.

Each number chooses one of the things that can happen next. ``history`` gives the decisions; ``histories`` is the
hypothesis strategy, which shrinks towards short and simple ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from events import names
from events.agents import Limits, ModelAgent, ProgramAgent
from events.content import Inline, Stored
from events.delivery import DeliveryAbandoned, DeliveryAttemptRefused, DeliveryPlanned, DeliverySucceeded
from events.envelope import Envelope, Recorded
from events.environment import (
    EnvironmentPreparationFailed,
    EnvironmentPrepared,
    EnvironmentRemoved,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallInterrupted,
    ToolCallStarted,
    ToolCallUncertain,
)
from events.kernel import Event
from events.pipeline import DEVELOPMENT
from events.project import ProjectAdded, ProjectSettings, Repository
from events.pull_request import (
    PullRequestApproved,
    PullRequestClosed,
    PullRequestMerged,
    PullRequestMergeRefused,
    PullRequestOpened,
    PullRequestRevised,
)
from events.requests import CallRequested
from events.run import (
    AgentReminded,
    AnswerReceived,
    ModelCallPostponed,
    ModelResponded,
    RunCancelled,
    RunCrashed,
    RunCrashLooped,
    RunEnd,
    RunFellSilent,
    RunOverBudget,
    RunRefused,
    RunResumed,
    RunStalled,
    RunStarted,
    RunStarved,
    RunSucceeded,
    RunTimedOut,
    RunUnprepared,
    ToolCallRefused,
    ToolCallRequested,
)
from events.systems import ServiceState, SystemStarted, SystemStopped
from events.task import (
    ApprovalRequested,
    CheckRequested,
    GatePassed,
    GateRefused,
    GateUnevaluated,
    QuestionAnswered,
    QuestionAsked,
    RunFailureRecorded,
    RunRecorded,
    RunRequested,
    StageApproved,
    StagePassed,
    StageRejected,
    StageResult,
    StageRolledBack,
    TaskBlocked,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskReopened,
    TaskSpecification,
    TaskSubmitted,
)

TENANT = "acme"
START = datetime(2026, 1, 1, tzinfo=UTC)
LATER = START + timedelta(days=1)
REPOSITORY = Repository(url="/srv/shop.git", base_branch="main")
MODEL = ModelAgent(provider="scripted", model="small")
PROGRAM = ProgramAgent(command=("true",))
STORED = Stored(digest="d" * 64, size_bytes=70_000)

ENDS: tuple[RunEnd, ...] = (
    RunSucceeded(summary="done", commit="c9"),
    RunCrashed(exit_code=3, detail="it fell"),
    RunTimedOut(limit_seconds=1800.0),
    RunFellSilent(limit_seconds=600.0),
    RunOverBudget(budget="tokens", limit=10.0, used=11.0),
    RunRefused(cause="credentials", detail="no such key"),
    RunStarved(failures=5, cause="overloaded", detail="529"),
    RunStalled(detail="it kept talking"),
    RunUnprepared(cause="repository-not-found", detail="no such repository"),
    RunCrashLooped(epochs=3),
    RunCancelled(reason="not needed"),
)


def envelope(entity: str, id: str, *events: Event, sequence: int = 1, trace: str = "") -> Envelope:
    """A decision; the clock moves on by a second and a microsecond with each."""
    return Envelope(
        id=f"decision-{sequence}",
        tenant=TENANT,
        entity=entity,
        entity_id=id,
        time=START + timedelta(seconds=sequence, microseconds=sequence),
        events=events,
        trace=trace,
    )


def records(*decisions: tuple[str, str, Event | tuple[Event, ...]]) -> list[Recorded]:
    """Recorded decisions from (entity, id, event or events), with sequences from 1."""
    return [
        Recorded(sequence, envelope(entity, id, *(e if isinstance(e, tuple) else (e,)), sequence=sequence))
        for sequence, (entity, id, e) in enumerate(decisions, start=1)
    ]


def submitted(number: int = 1, depends_on: tuple[str, ...] = (), title: str = "Mend the sum") -> TaskSubmitted:
    return TaskSubmitted(
        specification=TaskSpecification(project="shop", title=title, depends_on=depends_on, agent="claude"),
        number=number,
        submission_id=f"submit-{number}",
        pipeline=DEVELOPMENT,
        repository=REPOSITORY,
        test_command="pytest",
        max_attempts=2,
    )


def run_requested(task: str = "shop-1", attempt: int = 1, agent: ModelAgent | ProgramAgent = MODEL) -> RunRequested:
    return RunRequested(
        stage="development",
        attempt=attempt,
        run_id=names.run_id(task, "development", attempt),
        environment_id=names.environment_id(task, "development"),
        agent_name="claude",
        agent=agent,
        prompt="Mend it.",
    )


def run_started(task: str = "shop-1", attempt: int = 1) -> RunStarted:
    return RunStarted(
        task_id=task,
        stage="development",
        attempt=attempt,
        environment_id=names.environment_id(task, "development"),
        agent_name="claude",
        agent=MODEL,
        prompt="Mend it.",
        system="You mend things.",
        tools=("shell",),
        limits=Limits(),
        host="worker-1",
        runner="runner-1",
    )


def prepared(task: str = "shop-1") -> EnvironmentPrepared:
    return EnvironmentPrepared(
        task_id=task,
        host="worker-1",
        isolation="worktree",
        repository_url=REPOSITORY.url,
        base_branch="main",
        base_commit="b0",
        commit="c0",
        tree="t0",
        workspace="/work/1",
    )


def pull_request_opened(task: str = "shop-1") -> PullRequestOpened:
    return PullRequestOpened(
        task_id=task,
        repository_url=REPOSITORY.url,
        title="Mend the sum",
        description="It added one.",
        base="main",
        base_commit="b0",
        head=names.branch_name(task),
        head_commit="c1",
        diff=Inline("-1\n+2\n"),
        files_changed=1,
        lines_added=1,
        lines_removed=1,
    )


def delivery_planned(number: int = 1) -> DeliveryPlanned:
    return DeliveryPlanned(
        rule="task-ended",
        channel="in_app",
        receiver="",
        sequence=number,
        event_type="TaskCompleted",
        subject_entity="task",
        subject_id="shop-1",
        title="shop-1 is completed",
        body="Mend the sum",
        occurred_at=START,
    )


Choice = tuple[str, str, tuple[Event, ...]]


class World:
    """What has happened so far, as much of it as says what can happen next."""

    def __init__(self) -> None:
        self.records: list[Recorded] = []
        self.tasks: dict[str, str] = {}  # id -> open, ended
        self.runs: dict[str, str] = {}  # id -> requested, running, ended
        self.steps: dict[str, int] = {}
        self.calls: dict[str, tuple[str, str]] = {}  # call id -> (requested, started, ended; run id)
        self.pull_requests: dict[str, str] = {}
        self.deliveries: dict[str, int] = {}

    def happen(self, number: int) -> None:
        choices = list(self._choices())
        choice = choices[number % len(choices)]
        entity, id, events = choice()
        sequence = len(self.records) + 1
        self.records.append(Recorded(sequence, envelope(entity, id, *events, sequence=sequence)))

    def _choices(self) -> Iterable[Callable[[], Choice]]:
        yield self._submit
        yield self._project
        for task, status in self.tasks.items():
            yield from self._of_task(task, status)
        for run, status in self.runs.items():
            yield from self._of_run(run, status)
        for call, (status, run) in self.calls.items():
            yield from self._of_call(call, status, run)
        yield from self._of_pull_requests()
        yield from self._of_deliveries()

    def _project(self) -> Choice:
        return "project", "shop", (ProjectAdded(settings=ProjectSettings(repository=REPOSITORY, prefix="shop")),)

    def _submit(self) -> Choice:
        number = len(self.tasks) + 1
        depends_on = (names.task_id("shop", number - 1),) if number % 2 == 0 else ()
        id = names.task_id("shop", number)
        self.tasks[id] = "open"
        return "task", id, (submitted(number, depends_on),)

    def _of_task(self, task: str, status: str) -> Iterable[Callable[[], Choice]]:
        if status == "ended":
            yield lambda: self._set(self.tasks, task, "open", "task", TaskReopened(stages=("development", "test")))
            return
        yield lambda: self._request_run(task)
        result = StageResult(environment_id=f"{task}-development", host="worker-1", commit="c1", summary="done")
        check = names.check_id(task, "test", 1)
        for event in (
            StagePassed(stage="development", result=result),
            CheckRequested(
                stage="test", attempt=1, check_id=check, kind="tests", environment_id=f"{task}-development", host="w"
            ),
            GatePassed(stage="test", check_id=check, summary="green"),
            GateRefused(stage="test", check_id=check, summary="red", detail="1 failed"),
            GateUnevaluated(stage="test", check_id=check, summary="no answer"),
            StageRolledBack(stage="test", to="development", findings="1 failed", rework=1),
            ApprovalRequested(stage="test"),
            StageApproved(stage="test", by="ann"),
            StageRejected(stage="test", reason="no", by="ann"),
            QuestionAsked(run_id=f"{task}-development-1", call_id="q", question="Which one?"),
            QuestionAnswered(call_id="q", answer="the first"),
        ):
            yield lambda event=event: ("task", task, (event,))
        for end in (
            TaskCompleted(summary="done"),
            TaskFailed(stage="development", cause="crashed", detail="exit code 3"),
            TaskBlocked(stage="test", cause="rework-limit", detail="1 failed"),
            TaskCancelled(reason="not needed"),
        ):
            yield lambda end=end: self._set(self.tasks, task, "ended", "task", end)
        for run, state in self.runs.items():
            if state == "ended" and run.startswith(f"{task}-"):
                yield lambda run=run: ("task", task, (RunRecorded(stage="development", run_id=run, result=result),))
                failure = RunFailureRecorded(
                    stage="development", run_id=run, cause="crashed", detail="exit code 3", retry_at=LATER
                )
                yield lambda failure=failure: ("task", task, (failure,))

    def _request_run(self, task: str) -> Choice:
        attempt = sum(run.startswith(f"{task}-") for run in self.runs) + 1
        event = run_requested(task, attempt, MODEL if attempt % 2 else PROGRAM)
        self.runs[event.run_id] = "requested"
        return "task", task, (event,)

    def _of_run(self, run: str, status: str) -> Iterable[Callable[[], Choice]]:
        task, attempt = run.rsplit("-", 2)[0], int(run.rsplit("-", 1)[1])
        environment = f"{task}-development"
        if status == "requested":
            yield lambda: self._set(self.runs, run, "running", "run", run_started(task, attempt))
            yield lambda: ("environment", environment, (prepared(task),))
            failed = EnvironmentPreparationFailed(task_id=task, cause="merge-conflict", detail="in a.py")
            yield lambda: ("environment", environment, (failed,))
        elif status == "running":
            yield lambda: self._respond(run)
            yield lambda: self._respond(run)
            yield lambda: ("run", run, (RunResumed(epoch=2, host="worker-2", runner="runner-2", after="answer 1"),))
            postponed = ModelCallPostponed(failures=1, cause="overloaded", detail="529.", retry_at=LATER)
            yield lambda: ("run", run, (postponed,))
            yield lambda: ("run", run, (AgentReminded(text="Call submit."),))
            for end in ENDS:
                yield lambda end=end: self._set(self.runs, run, "ended", "run", end)
            web = ServiceState(service="web", container="web-1", status="running")
            up = SystemStarted(call_id="c", compose_file="compose.yaml", project="p", services=(web,))
            yield lambda: ("environment", environment, (up,))
            yield lambda: ("environment", environment, (SystemStopped(reason="compose_down"),))
            asked = CallRequested(call_id=f"{run}-by-1", tool="shell", arguments=Inline("{}"), effects="workspace")
            yield lambda: ("environment", environment, (asked,))
        else:
            yield lambda: ("environment", environment, (EnvironmentRemoved(reason="task ended"),))

    def _respond(self, run: str) -> Choice:
        step = self.steps[run] = self.steps.get(run, 0) + 1
        answer = ModelResponded(
            step=step, text="Let us see.", model="small-2", input_tokens=100, output_tokens=10, cost_usd=0.1
        )
        calls = tuple(
            ToolCallRequested(
                call_id=names.call_id(run, step * 10 + index),
                step=step,
                tool="shell",
                arguments=Inline('{"command": "ls"}') if index else STORED,
                effects=("workspace", "none", "external")[(step + index) % 3],
            )
            for index in range(step % 3)
        )
        for call in calls:
            self.calls[call.call_id] = ("requested", run)
        return "run", run, (answer, *calls)

    def _of_call(self, call: str, status: str, run: str) -> Iterable[Callable[[], Choice]]:
        environment = run.rsplit("-", 1)[0]
        said = {"call_id": call, "run_id": run, "tool": "shell"}
        if status == "ended":
            return
        if status == "requested":
            yield lambda: self._call(call, "started", "environment", environment, ToolCallStarted(**said))
            refusal = ToolCallRefused(call_id=call, cause="unknown-tool", detail="there is no such tool")
            yield lambda: self._call(call, "ended", "run", run, refusal)
            yield lambda: self._call(call, "ended", "run", run, AnswerReceived(call_id=call, answer="the first"))
        else:
            uncertain = ToolCallUncertain(**said, resolution="execute-again", detail="the host died", restored="c0")
            yield lambda: self._call(call, "requested", "environment", environment, uncertain)
            interrupted = ToolCallInterrupted(**said, reason="cancelled")
            yield lambda: self._call(call, "ended", "environment", environment, interrupted)
        for end in (
            ToolCallCompleted(**said, duration_ms=5, content=Inline("a.py\0b.py"), exit_code=0, checkpoint=f"c-{call}"),
            ToolCallCompleted(**said, duration_ms=5, content=STORED, exit_code=1, output_bytes=70_000, truncated=True),
            ToolCallFailed(**said, cause="timed-out", detail="after 600 s", duration_ms=600_000),
        ):
            yield lambda end=end: self._call(call, "ended", "environment", environment, end)

    def _call(self, call: str, status: str, entity: str, id: str, event: Event) -> Choice:
        self.calls[call] = (status, self.calls[call][1])
        return entity, id, (event,)

    def _of_pull_requests(self) -> Iterable[Callable[[], Choice]]:
        for task in self.tasks:
            if task not in self.pull_requests:
                yield lambda task=task: self._set(
                    self.pull_requests, task, "open", "pull_request", pull_request_opened(task)
                )
        for id, state in self.pull_requests.items():
            if state == "open":
                for event in (
                    PullRequestRevised(head_commit="c2", base_commit="b1", diff=STORED, files_changed=2),
                    PullRequestApproved(by="ann"),
                    PullRequestMergeRefused(cause="conflict", detail="in a.py"),
                ):
                    yield lambda id=id, event=event: ("pull_request", id, (event,))
                for end in (PullRequestMerged(commit="m1", by="ann"), PullRequestClosed(reason="not needed")):
                    yield lambda id=id, end=end: self._set(self.pull_requests, id, "ended", "pull_request", end)

    def _of_deliveries(self) -> Iterable[Callable[[], Choice]]:
        yield self._plan_delivery
        for id, attempt in self.deliveries.items():
            refused = DeliveryAttemptRefused(attempt=attempt + 1, detail="503", retry_at=LATER)
            yield lambda id=id, refused=refused: ("delivery", id, (refused,))
            yield lambda id=id: ("delivery", id, (DeliverySucceeded(attempt=1),))
            yield lambda id=id: ("delivery", id, (DeliveryAbandoned(attempts=9, detail="410"),))

    def _plan_delivery(self) -> Choice:
        id = f"delivery-{len(self.deliveries) + 1}"
        self.deliveries[id] = 0
        return "delivery", id, (delivery_planned(len(self.deliveries)),)

    def _set(self, states: dict[str, str], id: str, state: str, entity: str, event: Event) -> Choice:
        states[id] = state
        return entity, id, (event,)


def history(numbers: Iterable[int]) -> list[Recorded]:
    world = World()
    for number in numbers:
        world.happen(number)
    return world.records


histories = st.lists(st.integers(0, 10_000), min_size=1, max_size=120).map(history)
