"""Queries: read models by the real projector in a real PostgreSQL, reads of the log, and the process itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from events.content import Inline
from events.project import ProjectAdded
from events.pull_request import PullRequestOpened
from events.task import TaskCancelled
from infra.ports import RunLease
from tests.gateway_stack import gateway_stack, project_settings, projecting, scheduler
from tests.integration.test_gateway_commands import problem
from tests.integration.test_gateway_streams import started
from tests.postgres_server import PostgresServer, postgres_server, postgres_url
from tests.waiting import until

__all__ = ["postgres_url"]

API = "/api/v1"


def opened(task: str) -> PullRequestOpened:
    return PullRequestOpened(
        task_id=task,
        repository_url="/srv/shop",
        title="Mend the total",
        description="",
        base="main",
        base_commit="b",
        head=f"cairn/{task}",
        head_commit="h",
        diff=Inline("--- a\n+++ b\n"),
    )


async def test_read_your_writes(nats_url: str, postgres_url: str, tmp_path: Path) -> None:
    """The sequence of a command's answer, given as wait_for, reads what the command did."""
    async with (
        gateway_stack(nats_url, tmp_path, postgres_url=postgres_url) as stack,
        projecting(stack),
        scheduler(stack),
    ):
        body = {"name": "shop", "repository": {"url": "/srv/shop"}, "roles": {"developer": "coder"}}
        added = (await stack.client.post(f"{API}/projects", json=body)).json()
        read = await stack.client.get(f"{API}/projects/shop", params={"wait_for": added["sequence"]})
        assert read.status_code == 200, read.text
        assert read.json()["settings"]["roles"] == {"developer": "coder"}
        assert int(read.headers["cairn-sequence"]) >= added["sequence"]
        answer = (await stack.client.post(f"{API}/projects/shop/tasks", json={"title": "Mend"})).json()
        listed = await stack.client.get(f"{API}/tasks", params={"wait_for": answer["sequence"], "project": "shop"})
        assert [(row["id"], row["status"]) for row in listed.json()["items"]] == [("shop-1", "queued")]


async def test_every_query(nats_url: str, postgres_url: str, tmp_path: Path) -> None:
    """Lists, pages and single things answer; what does not exist is a problem."""
    async with gateway_stack(nats_url, tmp_path, postgres_url=postgres_url) as stack, projecting(stack):
        await stack.append("project", "shop", ProjectAdded(settings=project_settings()))
        run = await stack.request_run("shop-1")
        await stack.append("run", run, started(run, "shop-1"))
        await stack.append("task", "shop-2", *(await stack.jetstream.log.load("task", "shop-1"))[0].envelope.events[:1])
        last = await stack.append("pull_request", "shop-1", opened("shop-1"))
        get = stack.client.get
        assert (await get(f"{API}/queue", params={"wait_for": last})).status_code == 200
        assert (await get(f"{API}/runs/{run}")).json()["interrupted"]["after"] == "its start"
        for status, ids in (("interrupted", ["shop-1"]), ("running", []), ("queued", ["shop-2"])):
            page = (await get(f"{API}/tasks", params={"status": status})).json()
            assert ids == [row["id"] for row in page["items"]], status
        why = (await get(f"{API}/tasks/shop-1/why")).json()
        assert (why["status"], why["obstacles"][0]["kind"]) == ("interrupted", "no-lease")
        assert f"No worker holds the lease of {run}" in why["summary"]
        stack.jetstream.leases.hold(RunLease(run_id=run, runner="r1", host="here"), 60.0)
        await until(stack.jetstream.leases.held)

        lists = {
            "/projects": 1,
            "/tasks": 2,
            "/tasks?status=running&status=queued": 2,
            "/tasks?status=failed": 0,
            "/tasks?project=other": 0,
            "/tasks/shop-1/runs": 1,
            f"/runs/{run}/timeline": 1,
            "/environments": 1,
            "/pull-requests?state=open": 1,
            "/pull-requests?state=merged": 0,
            "/deliveries?channel=in_app": 0,
        }
        for path, count in lists.items():
            answer = await get(API + path)
            assert count == len(answer.json()["items"]), (path, answer.text)
            assert answer.json()["next"] is None
        page = (await get(f"{API}/tasks", params={"limit": 1})).json()
        rest = (await get(f"{API}/tasks", params={"limit": 1, "after": page["next"]})).json()
        assert {"shop-1", "shop-2"} == {page["items"][0]["id"], rest["items"][0]["id"]}

        assert (await get(f"{API}/tasks/shop-1")).json()["status"] == "running"
        assert (await get(f"{API}/runs/{run}")).json()["agent_name"] == "coder"
        assert (await get(f"{API}/pull-requests/shop-1")).json()["repository_url"] == "/srv/shop"
        diff = await get(f"{API}/pull-requests/shop-1/diff")
        assert (diff.text, diff.headers["content-type"]) == ("--- a\n+++ b\n", "text/plain; charset=utf-8")
        assert (await get(f"{API}/tasks/shop-1/why")).json()["summary"].startswith("It runs: development")
        assert "Nothing stands" in (await get(f"{API}/tasks/shop-2/why")).json()["summary"]

        for path in ("/projects/x", "/tasks/x", "/tasks/x/why", "/tasks/x/runs", "/runs/x", "/runs/x/timeline"):
            problem(await get(API + path), 404, "not-found")
        for path in ("/environments/x", "/pull-requests/x", "/pull-requests/x/diff", "/tasks?project=%00"):
            problem(await get(API + path), 404, "not-found")
        for path in ("/tasks?status=odd", "/tasks?limit=5000", "/tasks?wait_for=-1", "/queue?wait_for=1e9"):
            problem(await get(API + path), 422, "invalid")
        behind = problem(await get(f"{API}/queue", params={"wait_for": last + 100}), 503, "behind")
        assert f"reach {last + 100}" in behind["detail"]


async def test_postgres_away(nats_url: str, tmp_path: Path) -> None:
    """Without PostgreSQL queries answer 503 while commands and reads of the log work; it comes back by itself."""
    with postgres_server() as server:
        async with gateway_stack(nats_url, tmp_path, postgres_url=server.url) as stack, scheduler(stack):
            assert isinstance(server, PostgresServer)
            problem(await stack.client.get(f"{API}/tasks"), 503, "unavailable")
            async with projecting(stack):
                last = await stack.append("project", "shop", ProjectAdded(settings=project_settings()))
                assert (await stack.client.get(f"{API}/projects?wait_for={last}")).status_code == 200
                server.stop()
                problem(await stack.client.get(f"{API}/projects"), 503, "unavailable")
                cancelled = await stack.client.post(f"{API}/tasks/shop-1/cancel", json={})
                assert cancelled.status_code == 200
                assert len((await stack.client.get(f"{API}/events")).json()["items"]) == 2
                server.start()

                async def is_back() -> bool:
                    read = await stack.client.get(f"{API}/projects?wait_for={cancelled.json()['sequence']}")
                    return read.status_code == 200

                await until(is_back, seconds=30.0)


async def test_replay(nats_url: str, tmp_path: Path) -> None:
    """An entity's state at a sequence, at a time, and now; before its beginning there is none."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        await stack.append("project", "shop", ProjectAdded(settings=project_settings()))
        await stack.request_run("shop-1")
        late = datetime(2030, 1, 1, tzinfo=UTC)
        await stack.append("task", "shop-1", TaskCancelled(reason="no"), time=late)

        async def status(at: str | None) -> tuple[str, int]:
            answer = await stack.client.get(f"{API}/replay/task/shop-1", params={"at": at} if at else {})
            assert answer.status_code == 200, answer.text
            return answer.json()["status"], answer.json()["sequence"]

        assert await status(None) == ("cancelled", 3)
        assert await status("2") == ("running", 2)
        assert await status("2029-12-31T23:59:59Z") == ("running", 2)
        assert await status("2030-01-01T01:00:00+01:00") == ("cancelled", 3)
        state = (await stack.client.get(f"{API}/replay/task/shop-1?at=2")).json()["state"]
        assert state["stages"]["development"]["position"]["type"] == "Running"
        early = problem(await stack.client.get(f"{API}/replay/task/shop-1?at=1"), 404, "not-yet")
        assert "began with 2" in early["detail"]
        for odd in ("yesterday", "2026-01-01", "2026-01-01T00:00:00", "-1", ""):
            problem(await stack.client.get(f"{API}/replay/task/shop-1", params={"at": odd}), 422, "invalid")
        problem(await stack.client.get(f"{API}/replay/pull-request/shop-1"), 404, "not-found")


async def test_dead_letters_and_content(nats_url: str, tmp_path: Path) -> None:
    """Dead letters are listed, read and sent again; content comes back by its digest."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        letters = stack.jetstream.dead_letters
        subject = f"cmd.{stack.settings.tenant}.scheduler.any.task.shop-1"
        await letters.put("scheduler", subject, b'{"id": "c"}', reason="junk", detail="what?", deliveries=1)
        await letters.put("scheduler", subject, b"\xff", reason="junk", detail="what?", deliveries=2)
        items = (await stack.client.get(f"{API}/dead-letters")).json()["items"]
        assert [item["command"] for item in items] == [{"id": "c"}, "\ufffd"]
        number = items[0]["sequence"]
        assert (await stack.client.get(f"{API}/dead-letters/{number}")).json()["detail"] == "what?"
        resent = await stack.client.post(f"{API}/dead-letters/{number}/resend")
        assert ("resent", subject) == (resent.json()["outcome"], resent.json()["subject"])
        problem(await stack.client.get(f"{API}/dead-letters/{number}"), 404, "not-found")

        for data, kind in ((b"text", "text/plain; charset=utf-8"), (b"\xff\x00", "application/octet-stream")):
            digest = await stack.jetstream.content.put(data)
            answer = await stack.client.get(f"{API}/content/{digest}")
            assert (data, kind) == (answer.content, answer.headers["content-type"])
