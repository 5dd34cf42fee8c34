"""What the rows say after a history: one test per thing that a reader relies on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from events.content import Inline
from events.delivery import DeliveryAbandoned, DeliveryAttemptRefused, DeliverySucceeded
from events.environment import (
    EnvironmentPreparationFailed,
    EnvironmentRemoved,
    ToolCallCompleted,
    ToolCallFailed,
    ToolCallInterrupted,
    ToolCallStarted,
    ToolCallUncertain,
)
from events.kernel import Event, replace
from events.project import ProjectAdded, ProjectSettings
from events.pull_request import PullRequestApproved, PullRequestMerged, PullRequestMergeRefused, PullRequestRevised
from events.run import (
    RUN_ENDS,
    AnswerReceived,
    ModelCallPostponed,
    ModelResponded,
    RunEnd,
    RunResumed,
    ToolCallRefused,
    ToolCallRequested,
)
from events.systems import ServiceState, SystemFoundUnhealthy, SystemObserved, SystemStarted, SystemStopped
from events.task import (
    CheckRequested,
    QuestionAsked,
    RunFailureRecorded,
    StagePassed,
    StageResult,
    StageRolledBack,
    TaskCompleted,
    TaskFailed,
    TaskReopened,
)
from projections.fold import touched
from projections.run import detail_of
from tests.projections.histories import (
    ENDS,
    LATER,
    PROGRAM,
    REPOSITORY,
    STORED,
    delivery_planned,
    envelope,
    prepared,
    pull_request_opened,
    records,
    run_requested,
    run_started,
    submitted,
)
from tests.projections.tables import Tables

RUN = "shop-1-development-1"
ENVIRONMENT = "shop-1-development"
CALL = f"{RUN}-c1"
SAID = {"call_id": CALL, "run_id": RUN, "tool": "shell"}


def tables(*decisions: tuple[str, str, Event | tuple[Event, ...]]) -> Tables:
    found = Tables()
    found.write(records(*decisions))
    return found


def test_project() -> None:
    """A project's row holds what a person chose."""
    settings = ProjectSettings(repository=REPOSITORY, prefix="shop", test_command="pytest", agents_at_once=2)
    row = tables(("project", "shop", ProjectAdded(settings=settings))).row("projects", "shop")
    assert (row["prefix"], row["repository_url"], row["base_branch"]) == ("shop", REPOSITORY.url, "main")
    assert row["agents_at_once"] == 2
    assert msgspec.json.decode(row["settings"], type=ProjectSettings) == settings


def test_task_submitted() -> None:
    """A new task is queued, with its stages waiting and the agent it asks for."""
    row = tables(("task", "shop-1", submitted(depends_on=("shop-0",)))).row("tasks", "shop-1")
    assert (row["status"], row["reason"], row["agent"], row["depends_on"]) == ("queued", "", "claude", ["shop-0"])
    stages = msgspec.json.decode(row["stages"])
    assert [stage["name"] for stage in stages] == ["development", "test", "publish"]
    assert {stage["status"] for stage in stages} == {"waiting"}
    assert [stage["gate"] for stage in stages] == ["", "tests", "pull_request"]


def test_task_running_names_run_and_check() -> None:
    """A stage's view names its last run and its last check."""
    result = StageResult(environment_id=ENVIRONMENT, host="worker-1", commit="c1")
    check = CheckRequested(
        stage="test", attempt=1, check_id="shop-1-test-1-check", kind="tests", environment_id=ENVIRONMENT, host="w"
    )
    row = tables(
        ("task", "shop-1", (submitted(), run_requested())),
        ("task", "shop-1", (StagePassed(stage="development", result=result), check)),
    ).row("tasks", "shop-1")
    development, test, _ = msgspec.json.decode(row["stages"])
    assert (development["status"], development["run_id"], development["result"]["commit"]) == ("passed", RUN, "c1")
    assert (test["status"], test["check_id"]) == ("checking", "shop-1-test-1-check")
    assert (row["status"], row["reason"]) == ("running", "test: its gate is being checked")


def test_task_waits_after_failure() -> None:
    """A task whose run failed says when it is tried again and what went wrong."""
    failure = RunFailureRecorded(stage="development", run_id=RUN, cause="crashed", detail="exit 3", retry_at=LATER)
    row = tables(("task", "shop-1", (submitted(), run_requested())), ("task", "shop-1", failure)).row("tasks", "shop-1")
    assert row["status"] == "queued"
    assert row["reason"].startswith("development: tried again at 2026-01-02 00:00:00 UTC. ")
    assert "exit 3" in row["reason"]


def test_task_asks() -> None:
    """A task with an open question shows it as its reason."""
    asked = QuestionAsked(run_id=RUN, call_id=CALL, question="Which one?")
    row = tables(("task", "shop-1", (submitted(), run_requested(), asked))).row("tasks", "shop-1")
    assert (row["status"], row["reason"]) == ("needs_input", "Which one?")


def test_task_ends_and_begins_again() -> None:
    """``ended_at`` is the time of the end, and gone when the task is reopened."""
    end = TaskFailed(stage="development", cause="crashed", detail="exit 3")
    ended = tables(("task", "shop-1", submitted()), ("task", "shop-1", end)).row("tasks", "shop-1")
    assert (ended["status"], ended["reason"]) == ("failed", "development: crashed: exit 3")
    assert ended["ended_at"] == envelope("task", "shop-1", sequence=2).time
    again = tables(
        ("task", "shop-1", submitted()),
        ("task", "shop-1", end),
        ("task", "shop-1", TaskReopened(stages=("development",))),
    ).row("tasks", "shop-1")
    assert (again["status"], again["ended_at"]) == ("queued", None)


def test_task_rework_counts() -> None:
    """A roll-back shows at the stage that caused it, its findings at the one that mends."""
    back = StageRolledBack(stage="test", to="development", findings="1 failed", rework=2)
    row = tables(("task", "shop-1", (submitted(), back))).row("tasks", "shop-1")
    development, test, _ = msgspec.json.decode(row["stages"])
    assert (development["findings"], test["rework"]) == ("1 failed", 2)


def test_task_completed_says_so() -> None:
    """A completed task's reason is its summary."""
    row = tables(("task", "shop-1", (submitted(), TaskCompleted(summary="merged")))).row("tasks", "shop-1")
    assert (row["status"], row["reason"]) == ("completed", "merged")


def test_unknown_task_has_no_row() -> None:
    """Events of a task that was never submitted make no row."""
    assert tables(("task", "shop-1", TaskCompleted())).rows["tasks"] == {}


def test_requested_run_is_seen() -> None:
    """A run and its environment have rows as soon as the task asks for them."""
    found = tables(("task", "shop-1", (submitted(), run_requested(agent=PROGRAM))))
    run = found.row("runs", RUN)
    assert (run["status"], run["task_id"], run["kind"], run["started_at"]) == ("pending", "shop-1", "program", None)
    environment = found.row("environments", ENVIRONMENT)
    assert (environment["status"], environment["task_id"]) == ("preparing", "shop-1")


def test_decision_touches_what_its_requests_announce() -> None:
    """Two runs requested in one decision touch four more rows."""
    record = records(("task", "shop-1", (run_requested(attempt=1), run_requested("shop-2"))))[0]
    assert [(projection.table, id) for projection, id in touched(record)] == [
        ("tasks", "shop-1"),
        ("runs", RUN),
        ("environments", ENVIRONMENT),
        ("runs", "shop-2-development-1"),
        ("environments", "shop-2-development"),
    ]


def test_run_adds_up() -> None:
    """A run's row adds up what its answers cost, over epochs."""
    answer = ModelResponded(step=1, model="small-2", input_tokens=100, output_tokens=10, cost_usd=0.5)
    row = tables(
        ("run", RUN, run_started()),
        ("run", RUN, answer),
        ("run", RUN, RunResumed(epoch=2, host="worker-2", runner="runner-2", after="answer 1")),
        ("run", RUN, msgspec.structs.replace(answer, step=2)),
    ).row("runs", RUN)
    assert (row["steps"], row["input_tokens"], row["output_tokens"], row["cost_usd"]) == (2, 200, 20, 1.0)
    assert (row["epoch"], row["host"], row["model"], row["status"]) == (2, "worker-2", "small-2", "running")


def test_run_waits_for_its_provider() -> None:
    """A postponed model call shows when it is tried again, and no more once the model answered."""
    postponed = ModelCallPostponed(failures=1, cause="overloaded", detail="529", retry_at=LATER)
    decisions = (("run", RUN, run_started()), ("run", RUN, postponed))
    waiting = tables(*decisions).row("runs", RUN)
    assert (waiting["retry_at"], waiting["detail"]) == (LATER, "overloaded: 529")
    answered = tables(*decisions, ("run", RUN, ModelResponded(step=1))).row("runs", RUN)
    assert (answered["retry_at"], answered["detail"]) == (None, "")


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_run_ends(end: RunEnd) -> None:
    """However a run ends, its row says how, and why where it did not succeed."""
    row = tables(("run", RUN, run_started()), ("run", RUN, end)).row("runs", RUN)
    assert row["status"] == RUN_ENDS[type(end)]
    assert row["ended_at"] == envelope("run", RUN, sequence=2).time
    succeeded = row["status"] == "succeeded"
    assert (row["cause"] == "") == succeeded
    assert (row["detail"] == "") == succeeded
    assert row["detail"] == detail_of(end)
    assert row["summary"] == ("done" if succeeded else "")


def test_environment_knows_what_runs() -> None:
    """Running calls are those that started and have not ended; the checkpoint is the last one's."""
    second = {**SAID, "call_id": f"{RUN}-c2"}
    row = tables(
        ("environment", ENVIRONMENT, prepared()),
        ("environment", ENVIRONMENT, ToolCallStarted(**SAID)),
        ("environment", ENVIRONMENT, ToolCallStarted(**second)),
        ("environment", ENVIRONMENT, ToolCallCompleted(**SAID, duration_ms=5, checkpoint="c1")),
    ).row("environments", ENVIRONMENT)
    assert (row["status"], row["running_calls"], row["checkpoint"]) == ("ready", [f"{RUN}-c2"], "c1")


def test_environment_restored_after_uncertainty() -> None:
    """An uncertain call no longer runs, and the checkpoint is the one that was restored."""
    uncertain = ToolCallUncertain(**SAID, resolution="restore-and-execute-again", detail="gone", restored="c0")
    row = tables(
        ("environment", ENVIRONMENT, (prepared(), ToolCallStarted(**SAID))),
        ("environment", ENVIRONMENT, uncertain),
    ).row("environments", ENVIRONMENT)
    assert (row["running_calls"], row["checkpoint"]) == ([], "c0")


def test_environment_shows_its_system_as_it_was_seen_last() -> None:
    """What is wrong with it, until it is seen well again; nothing of it once it is down."""
    web = ServiceState(service="web", container="p-web-1", status="running", health="healthy")
    ill = replace(web, health="unhealthy")
    started = SystemStarted(call_id="c1", compose_file="compose.yaml", project="p", services=(web,))
    found = SystemFoundUnhealthy(
        call_id="c2", compose_file="compose.yaml", project="p", service="web", reason="is unhealthy", services=(ill,)
    )
    observed = SystemObserved(call_id="c3", services=(web,))

    def shown(*events: Event) -> Any:
        decisions = [("environment", ENVIRONMENT, event) for event in (prepared(), *events)]
        return msgspec.json.decode(tables(*decisions).row("environments", ENVIRONMENT)["system"])

    assert shown() is None
    assert shown(started)["services"][0]["health"] == "healthy"
    assert shown(started, found)["problem"] == "web: is unhealthy"
    assert (shown(started, found, observed)["problem"], shown(found, observed)["compose_file"]) == ("", "compose.yaml")
    assert shown(started, SystemStopped(reason="compose_down")) is None
    assert shown(started, EnvironmentRemoved(reason="done")) is None


def test_environment_without_change_is_not_written() -> None:
    """A call without effects leaves the environment's row as it was."""
    row = tables(
        ("environment", ENVIRONMENT, prepared()),
        ("environment", ENVIRONMENT, ToolCallCompleted(**SAID, duration_ms=5)),
    ).row("environments", ENVIRONMENT)
    assert row["sequence"] == 1


@pytest.mark.parametrize(
    ("event", "status", "detail"),
    [
        (
            EnvironmentPreparationFailed(task_id="shop-1", cause="merge-conflict", detail="a.py"),
            "failed",
            "merge-conflict: a.py",
        ),
        (EnvironmentRemoved(reason="task ended"), "removed", "task ended"),
    ],
)
def test_environment_ends(event: Event, status: str, detail: str) -> None:
    """An environment that failed or was removed says why."""
    row = tables(("environment", ENVIRONMENT, event)).row("environments", ENVIRONMENT)
    assert (row["status"], row["detail"]) == (status, detail)


def test_pull_request_approval_does_not_survive_a_push() -> None:
    """A revised pull request is open again, at the new commit, approved by nobody."""
    row = tables(
        ("pull_request", "shop-1", pull_request_opened()),
        ("pull_request", "shop-1", PullRequestApproved(by="ann")),
        ("pull_request", "shop-1", PullRequestRevised(head_commit="c2", base_commit="b1", diff=STORED)),
    ).row("pull_requests", "shop-1")
    assert (row["state"], row["approved_by"], row["head_commit"]) == ("open", "", "c2")
    assert msgspec.json.decode(row["diff"]) == {"kind": "stored", "digest": "d" * 64, "size_bytes": 70_000}


def test_pull_request_merged_after_a_refusal() -> None:
    """A refused merge leaves it open with the reason; a merge clears the reason and names the commit."""
    refused = (
        ("pull_request", "shop-1", pull_request_opened()),
        ("pull_request", "shop-1", PullRequestMergeRefused(cause="conflict", detail="a.py")),
    )
    row = tables(*refused).row("pull_requests", "shop-1")
    assert (row["state"], row["detail"]) == ("open", "conflict: a.py")
    row = tables(*refused, ("pull_request", "shop-1", PullRequestMerged(commit="m1"))).row("pull_requests", "shop-1")
    assert (row["state"], row["detail"], row["merge_commit"]) == ("merged", "", "m1")


def test_delivery() -> None:
    """A delivery is pending over its refusals, then delivered or abandoned."""
    refused = (
        ("delivery", "d", delivery_planned()),
        ("delivery", "d", DeliveryAttemptRefused(attempt=1, detail="503", retry_at=LATER)),
    )
    row = tables(*refused).row("deliveries", "d")
    assert (row["status"], row["attempts"], row["retry_at"], row["detail"]) == ("pending", 1, LATER, "503")
    row = tables(*refused, ("delivery", "d", DeliverySucceeded(attempt=2))).row("deliveries", "d")
    assert (row["status"], row["attempts"], row["retry_at"], row["detail"]) == ("delivered", 2, None, "")
    row = tables(*refused, ("delivery", "d", DeliveryAbandoned(attempts=9, detail="410"))).row("deliveries", "d")
    assert (row["status"], row["attempts"], row["detail"]) == ("abandoned", 9, "410")


def test_entries_keep_the_order_of_a_decision() -> None:
    """An answer and the calls it asks for stand one behind the other, with where their content is."""
    calls = (
        ToolCallRequested(call_id=CALL, step=1, tool="shell", arguments=Inline("{}"), effects="none"),
        ToolCallRequested(call_id=f"{RUN}-c2", step=1, tool="shell", arguments=STORED, effects="none"),
    )
    found = tables(("run", RUN, (ModelResponded(step=1, text="Let us see."), *calls))).entries
    assert [entry[1] for entry in found] == [65536, 65537, 65538]
    assert [entry[2] for entry in found] == ["model", "tool", "tool"]
    assert [entry[8:11] for entry in found[1:]] == [("{}", None, None), (None, "d" * 64, 70_000)]


@pytest.mark.parametrize(
    ("entity", "event", "state"),
    [
        ("environment", ToolCallStarted(**SAID), "running"),
        ("environment", ToolCallCompleted(**SAID, duration_ms=5), "completed"),
        ("environment", ToolCallFailed(**SAID, cause="timed-out", detail="after 600 s"), "failed"),
        ("environment", ToolCallInterrupted(**SAID, reason="cancelled"), "interrupted"),
        ("environment", ToolCallUncertain(**SAID, resolution="told-agent", detail="gone"), "uncertain"),
        ("run", ToolCallRefused(call_id=CALL, cause="unknown-tool", detail="no such tool"), "refused"),
        ("run", AnswerReceived(call_id=CALL, answer="the first"), "completed"),
    ],
)
def test_call_states(entity: str, event: Event, state: str) -> None:
    """Every event of a call is one row that says where the call stands from then on."""
    (row,) = tables((entity, RUN if entity == "run" else ENVIRONMENT, event)).call_states
    assert row[:3] == (CALL, 1, state)


def test_notes() -> None:
    """What happens to a run beside its steps stands among its entries."""
    uncertain = ToolCallUncertain(**SAID, resolution="told-agent", detail="gone")
    found = tables(
        ("run", RUN, run_started()),
        ("run", RUN, RunResumed(epoch=2, host="worker-2", runner="r", after="answer 1 of the model")),
        ("environment", ENVIRONMENT, uncertain),
        ("run", RUN, ENDS[0]),
    ).entries
    assert [(entry[0], entry[2], entry[3]) for entry in found] == [
        (RUN, "note", "started"),
        (RUN, "note", "resumed"),
        (RUN, "note", "uncertain"),
        (RUN, "note", "succeeded"),
    ]
    assert "after answer 1 of the model" in found[1][11]
