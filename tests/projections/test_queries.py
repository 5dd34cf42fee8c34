"""What readers get: boards, timelines, lists in pages, and the queue."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from events.content import Inline
from events.environment import ToolCallCompleted, ToolCallStarted
from events.kernel import Event
from events.project import ProjectAdded, ProjectSettings
from events.run import ModelResponded, ToolCallRequested
from events.task import TaskCompleted
from infra.memory.event_log import MemoryEventLog
from infra.postgres import connection
from projections.queries import ReadModels
from projections.rebuild import rebuild
from projections.schema import schema_name
from projections.statements import statements
from tests.projections.conftest import publish, reading
from tests.projections.histories import (
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

pytestmark = pytest.mark.integration

RUN = "shop-1-development-1"
ENVIRONMENT = "shop-1-development"
CALL = f"{RUN}-c1"

DECISIONS: tuple[tuple[str, str, Event | tuple[Event, ...]], ...] = (
    ("project", "shop", ProjectAdded(settings=ProjectSettings(repository=REPOSITORY, prefix="shop"))),
    ("task", "shop-1", submitted()),
    ("task", "shop-2", submitted(2, depends_on=("shop-1",))),
    ("task", "shop-3", submitted(3)),
    ("task", "shop-1", run_requested()),
    ("run", RUN, run_started()),
    ("environment", ENVIRONMENT, prepared()),
    (
        "run",
        RUN,
        (
            ModelResponded(step=1, text="Let us see.", model="small", input_tokens=100, output_tokens=10, cost_usd=0.5),
            ToolCallRequested(call_id=CALL, step=1, tool="shell", arguments=Inline("{}"), effects="workspace"),
            ToolCallRequested(call_id=f"{RUN}-c2", step=1, tool="shell", arguments=STORED, effects="none"),
        ),
    ),
    ("environment", ENVIRONMENT, ToolCallStarted(call_id=CALL, run_id=RUN, tool="shell")),
    (
        "environment",
        ENVIRONMENT,
        ToolCallCompleted(
            call_id=CALL, run_id=RUN, tool="shell", duration_ms=7, content=Inline("a.py"), exit_code=0, checkpoint="c1"
        ),
    ),
    ("pull_request", "shop-1", pull_request_opened()),
    ("delivery", "d1", delivery_planned()),
)


@pytest.fixture
async def models(postgres_url: str, log: MemoryEventLog) -> Any:
    publish(log, records(*DECISIONS))
    async with connection(postgres_url) as opened:
        await rebuild(opened, log, "test")
    async with reading(log, postgres_url) as (found, _):
        yield found


async def test_board(models: ReadModels) -> None:
    """The board tells pending from queued, and shows what a task has spent and offered."""
    rows = await models.tasks(project="shop")
    assert [(row["id"], row["status"]) for row in rows] == [
        ("shop-3", "queued"),
        ("shop-2", "pending"),
        ("shop-1", "running"),
    ]
    first = rows[2]
    assert (first["runs"], first["input_tokens"], first["output_tokens"], first["cost_usd"]) == (1, 100, 10, 0.5)
    assert (first["branch"], first["pull_request_id"], first["pull_request_state"]) == (
        "cairn/shop-1",
        "shop-1",
        "open",
    )
    assert rows[0]["pull_request_id"] is None


async def test_board_filters_and_pages(models: ReadModels) -> None:
    """Tasks by status, by id, and the page behind a task."""
    assert [row["id"] for row in await models.tasks(statuses=["pending", "running"])] == ["shop-2", "shop-1"]
    assert [row["id"] for row in await models.tasks(limit=1)] == ["shop-3"]
    assert [row["id"] for row in await models.tasks(after="shop-3", limit=1)] == ["shop-2"]
    assert await models.tasks(project="other") == []
    assert {row["id"] for row in await models.tasks_by_id(["shop-1", "nothing"])} == {"shop-1"}


async def test_dependency_completed(postgres_url: str, log: MemoryEventLog) -> None:
    """A task whose dependency is completed is queued, no longer pending."""
    publish(log, records(*DECISIONS[:3], ("task", "shop-1", TaskCompleted())))
    async with connection(postgres_url) as opened:
        await rebuild(opened, log, "test")
    async with reading(log, postgres_url) as (models, _):
        assert [row["status"] for row in await models.tasks()] == ["queued", "completed"]


async def test_task(models: ReadModels) -> None:
    """One task with its specification, stages and runs, ready to be encoded as it is."""
    task = await models.task("shop-1")
    assert task is not None
    answer = msgspec.json.decode(msgspec.json.encode(task))
    assert answer["specification"]["title"] == "Mend the sum"
    assert answer["stages"][0]["status"] == "running"
    assert [run["id"] for run in answer["run_list"]] == [RUN]
    assert await models.task("nothing") is None


async def test_timeline(models: ReadModels) -> None:
    """Each entry of a run with its content, and each call with where it stands."""
    rows = await models.timeline(RUN)
    assert [(row["kind"], row["name"], row["state"]) for row in rows] == [
        ("note", "started", None),
        ("model", "small", None),
        ("tool", "shell", "completed"),
        ("tool", "shell", "requested"),
    ]
    done, open_call = rows[2:]
    assert msgspec.json.decode(done["arguments"]) == {"kind": "inline", "text": "{}"}
    assert msgspec.json.decode(done["result"]) == {"kind": "inline", "text": "a.py"}
    assert (done["exit_code"], done["duration_ms"], done["checkpoint"]) == (0, 7, "c1")
    times = [envelope("run", RUN, sequence=sequence).time for sequence in (8, 9, 10)]
    assert [done["requested_at"], done["started_at"], done["ended_at"]] == times
    assert (done["sequence"], done["changed"]) == (8, 10)
    assert msgspec.json.decode(open_call["arguments"]) == {"kind": "stored", "digest": "d" * 64, "size_bytes": 70_000}
    assert (open_call["result"], open_call["ended_at"]) == (None, None)


async def test_timeline_pages_and_changes(models: ReadModels) -> None:
    """The rest of a timeline behind a position, and what a later decision changed in it."""
    rows = await models.timeline(RUN, limit=2)
    assert await models.timeline(RUN, after=rows[-1]["position"]) == (await models.timeline(RUN))[2:]
    assert [row["call_id"] for row in await models.timeline_changes(RUN, 8)] == [CALL]


async def test_call(models: ReadModels) -> None:
    """Where a call stands, and None for one that has not begun."""
    call = await models.call(CALL)
    assert call is not None
    assert (call["state"], call["exit_code"]) == ("completed", 0)
    assert msgspec.json.decode(call["result"]) == {"kind": "inline", "text": "a.py"}
    assert await models.call("nothing") is None


async def test_lists(models: ReadModels) -> None:
    """Projects, runs, environments, pull requests and deliveries, filtered, and None for what is not there."""
    (project,) = await models.projects()
    assert (project["id"], project["tasks"], project["agents_running"]) == ("shop", 3, 1)
    assert await models.project("shop") == project
    assert [row["id"] for row in await models.runs(statuses=["running"])] == [RUN]
    assert await models.runs(statuses=["succeeded"]) == []
    assert [row["id"] for row in await models.environments(task="shop-1", statuses=["ready"])] == [ENVIRONMENT]
    assert [row["id"] for row in await models.pull_requests(states=["open"], task="shop-1")] == ["shop-1"]
    assert [row["id"] for row in await models.deliveries(channel="in_app", statuses=["pending"])] == ["d1"]
    pull_request = await models.pull_request("shop-1")
    assert pull_request is not None
    assert msgspec.json.decode(pull_request["diff"])["text"] == "-1\n+2\n"
    for found in (models.project, models.run, models.environment, models.pull_request):
        assert await found("nothing") is None


async def test_queue(models: ReadModels) -> None:
    """Counts by status, agents by project, and the tasks that changed last."""
    queue = await models.queue()
    assert queue["by_status"] == {"pending": 1, "queued": 1, "running": 1}
    assert queue["projects"] == [{"id": "shop", "agents_at_once": 3, "running": 1, "starting": 0}]
    assert [row["id"] for row in queue["recent"]] == ["shop-1", "shop-3", "shop-2"]


async def test_statements_fit_the_tables(postgres_url: str, log: MemoryEventLog) -> None:
    """Every statement of the file can be prepared against the tables."""
    async with connection(postgres_url, search_path=schema_name(log.tenant)) as opened:
        await rebuild(opened, log, "test")
        for statement in statements("queries.sql").values():
            await opened.prepare(statement)
