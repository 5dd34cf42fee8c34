"""Live views: nothing lost and nothing twice over reconnects, ends and gaps told, slow clients cut off."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from pathlib import Path

import pytest

from events.agents import Limits
from events.environment import ToolCallCompleted, ToolCallStarted
from events.project import ProjectAdded
from events.run import RunStarted, RunSucceeded
from events.task import TaskCancelled
from infra.api_keys import revoke
from services.gateway.feeds import Feeds, Hub
from services.gateway.selection import everything
from services.gateway.server import GRACE_SECONDS
from services.gateway.sse import EventStreams
from tests.gateway_stack import AGENT, Frame, Stack, first, frames, gateway_stack, project_settings
from tests.waiting import until


def started(run: str, task: str) -> RunStarted:
    return RunStarted(
        task_id=task,
        stage="development",
        attempt=1,
        environment_id=f"{task}-development",
        agent_name="coder",
        agent=AGENT,
        prompt="Mend it",
        system="",
        tools=(),
        limits=Limits(),
        host="here",
        runner="r1",
    )


async def add_project(stack: Stack, name: str) -> int:
    return await stack.append("project", name, ProjectAdded(settings=project_settings()))


async def test_board_goes_on_after_a_reconnect(nats_url: str, tmp_path: Path) -> None:
    """What happens between two connections comes with the second one, once and in order."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        early = await add_project(stack, "early")
        seen = asyncio.create_task(first(2, frames(stack, "/board/stream", after=str(early))))
        sequences = [await add_project(stack, f"p{number}") for number in range(6)]
        before = await seen
        assert sequences[:2] == [int(frame.id) for frame in before]
        await stack.append("run", "shop-1-development-1", RunSucceeded(summary="", commit=""))
        after = await first(4, frames(stack, "/board/stream", before[-1].id))
        assert sequences[2:] == [int(frame.id) for frame in after]
        assert after[0].data["events"][0]["type"] == "ProjectAdded"
        assert ("project", "p2", sequences[2]) == tuple(after[0].data[k] for k in ("entity", "entity_id", "sequence"))


async def test_first_id_comes_before_the_first_event(nats_url: str, tmp_path: Path) -> None:
    """A client that lost its connection before the first event has an id to go on from."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        last = await add_project(stack, "early")
        async with stack.client.stream("GET", "/api/v1/board/stream") as response:
            assert "text/event-stream" in response.headers["content-type"]
            lines = [line async for line in _lines(response.aiter_lines(), 2)]
        assert ["retry: 1000", f"id: {last}"] == lines


async def test_a_revoked_key(nats_url: str, tmp_path: Path) -> None:
    """A stream ends when its key is revoked, in an orderly way and before it tells anything more."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        await add_project(stack, "early")
        async with stack.client.stream("GET", "/api/v1/board/stream") as response:
            lines = response.aiter_lines()
            assert [line async for line in _lines(lines, 1)] == ["retry: 1000"]
            assert revoke(tmp_path, "local")
            await add_project(stack, "late")
            async with asyncio.timeout(5):
                rest = [line async for line in lines]
        assert "late" not in "".join(rest)


async def test_task_selection(nats_url: str, tmp_path: Path) -> None:
    """A task's stream and page have the task, its runs and environments, and nothing of others."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        run = await stack.request_run("shop-1")
        other = await stack.request_run("shop-10")
        await stack.append("run", other, started(other, "shop-10"))
        await stack.append("run", run, started(run, "shop-1"))
        for call_run in (run, f"{run}9"):
            call = ToolCallStarted(call_id=f"{call_run}-c1", run_id=call_run, tool="shell")
            await stack.append("environment", "shop-1-development", call)
        seen = asyncio.create_task(first(5, frames(stack, "/events/stream", "0", task="shop-1")))
        await asyncio.sleep(0.2)
        await stack.append("task", "shop-10", TaskCancelled())
        await stack.append("task", "shop-1", TaskCancelled())
        entities = ["task", "run", "environment", "environment", "task"]
        assert entities == [frame.data["entity"] for frame in await seen]

        page = (await stack.client.get("/api/v1/events", params={"task": "shop-1", "limit": 3})).json()
        assert entities[:3] == [item["entity"] for item in page["items"]]
        rest = await stack.client.get("/api/v1/events", params={"task": "shop-1", "after": page["next"]})
        assert entities[3:] == [item["entity"] for item in rest.json()["items"]]
        assert rest.json()["next"] is None
        of_run = (await stack.client.get("/api/v1/events", params={"run": run})).json()["items"]
        assert [item["entity"] for item in of_run] == ["run", "environment"]
        narrowed = await stack.client.get("/api/v1/events", params={"task": "shop-1", "entity": "run"})
        assert [run] == [item["entity_id"] for item in narrowed.json()["items"]]
        live = await first(2, frames(stack, f"/runs/{run}/stream"))
        assert [frame.data["entity"] for frame in live] == ["run", "environment"]


async def test_long_history_then_live(nats_url: str, tmp_path: Path) -> None:
    """A client far behind gets the whole log, then what comes, without a seam; a small hub keeps only the last."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        log = stack.jetstream.log
        feeds, hub = Feeds(), Hub(log, kept=10)
        for number in range(30):
            await add_project(stack, f"a{number}")
        await hub.start()
        for number in range(30):
            await add_project(stack, f"b{number}")
        streams = EventStreams(log, hub, feeds, heartbeat_seconds=0.05)
        response = await streams.open(everything(), after=0)
        text = b""
        added = False
        async for part in response.body_iterator:
            assert isinstance(part, bytes)
            text += part
            if not added and b": heartbeat" in text:
                await add_project(stack, "last")
                added = True
            if b'"last"' in text:
                break
        ids = [int(line[4:]) for line in text.decode().splitlines() if line.startswith("id: ")]
        assert [0, *range(1, 62)] == ids
        await response.body_iterator.aclose()  # type: ignore[union-attr]
        await hub.stop()


async def test_slow_client_is_told(nats_url: str, tmp_path: Path) -> None:
    """A client that does not keep up gets what fitted, is told, and goes on from its last event."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        hub = Hub(stack.jetstream.log)
        await hub.start()
        streams = EventStreams(stack.jetstream.log, hub, Feeds(), queue_bytes=2000)
        parts = (await streams.open(everything(), after=0)).body_iterator
        await anext(parts)  # type: ignore[call-overload]
        sequences = [await add_project(stack, "first")]
        text: bytes = await anext(parts)  # type: ignore[call-overload]
        sequences += [await add_project(stack, f"p{number}") for number in range(20)]
        await until(lambda: hub.last >= sequences[-1])
        async with asyncio.timeout(10):
            async for part in parts:
                text += part  # type: ignore[operator]
        seen = [int(line[4:]) for line in text.decode().splitlines() if line.startswith("id: ")]
        assert text.decode().rstrip().splitlines()[-2] == "event: lagging"
        assert 1 < len(seen) < len(sequences)
        rest = await first(len(sequences) - len(seen), frames(stack, "/board/stream", str(seen[-1])))
        assert sequences == [*seen, *(int(frame.id) for frame in rest)]
        await hub.stop()


async def test_another_log_is_told(nats_url: str, tmp_path: Path) -> None:
    """A client that comes from a longer log learns that its place is not there."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        last = await add_project(stack, "p")
        (frame,) = await first(1, frames(stack, "/board/stream", "999999"))
        assert ("truncated", last) == (frame.name, frame.data["continued_after"])


async def test_output_to_its_end(nats_url: str, tmp_path: Path) -> None:
    """Output comes as it is printed, repetitions of a writer are left out, cut characters are whole, and it ends."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        run = await stack.request_run("shop-1")
        call = f"{run}-c1"
        output = stack.jetstream.output
        text = "zwölf Boxkämpfer\n".encode()
        await output.write(run, call, 0, text[:3])
        seen = asyncio.create_task(_all(frames(stack, f"/runs/{run}/output/stream")))
        await stack.append("run", run, started(run, "shop-1"))
        await stack.append("environment", "shop-1-development", ToolCallStarted(call_id=call, run_id=run, tool="shell"))
        await output.write(run, call, 3, text[3:7])
        await output.write(run, call, 0, text[:9])
        await output.write(run, f"{run}-c2", 0, b"other\n")
        await stack.append("run", run, RunSucceeded(summary="", commit=""))
        so_far = await _all(frames(stack, f"/runs/{run}/output/stream", follow="false"))
        assert "".join(frame.data["text"] for frame in so_far[:-1]).replace("other\n", "") == text[:9].decode()
        assert so_far[-1].name == "end"
        await output.write(run, call, 9, text[9:])
        done = ToolCallCompleted(call_id=call, run_id=run, tool="shell", duration_ms=1, exit_code=0, output_bytes=19)
        await stack.append("environment", "shop-1-development", done)
        async with asyncio.timeout(10):
            found = await seen
        assert (found[-1].name, found[-1].data) == ("end", {"status": "succeeded"})
        chunks = [frame.data for frame in found[:-1]]
        assert text.decode() == "".join(chunk["text"] for chunk in chunks if chunk["call_id"] == call)
        for chunk in chunks:
            if chunk["call_id"] == call:
                data = chunk["text"].encode()
                assert data == text[chunk["offset"] : chunk["offset"] + len(data)]

        for cut in range(len(found) - 1):
            again = await _all(frames(stack, f"/runs/{run}/output/stream", found[cut].id))
            assert found[cut + 1 :] == again, cut


async def test_output_that_aged_away_is_told(nats_url: str, tmp_path: Path) -> None:
    """Where the beginning of a call's output is gone, or all of it, the stream says which part."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        run = await stack.request_run("shop-1")
        await stack.jetstream.output.write(run, f"{run}-c1", 100, b"tail\n")
        await stack.append("run", run, started(run, "shop-1"))
        gone = ToolCallCompleted(
            call_id=f"{run}-c0", run_id=run, tool="shell", duration_ms=1, exit_code=0, output_bytes=7
        )
        await stack.append("environment", "shop-1-development", gone)
        await stack.append("run", run, RunSucceeded(summary="", commit=""))
        found = await _all(frames(stack, f"/runs/{run}/output/stream"))
        assert [frame.name for frame in found] == ["truncated", "message", "truncated", "end"]
        assert (found[0].data["offset"], found[0].data["until"]) == (0, 100)
        assert f"{run}-c0" == found[2].data["call_id"]
        stranger = await _all(frames(stack, f"/runs/{run}/output/stream", str(int(found[1].id) + 1000)))
        assert [frame.name for frame in stranger] == ["truncated", "end"]


async def test_output_of_a_run_that_never_began_ends(nats_url: str, tmp_path: Path) -> None:
    """A run that was requested and then cancelled with its task prints nothing and ends."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        run = await stack.request_run("shop-1")
        seen = asyncio.create_task(_all(frames(stack, f"/runs/{run}/output/stream")))
        await asyncio.sleep(0.2)
        assert not seen.done()
        await stack.append("task", "shop-1", TaskCancelled(reason="no"))
        async with asyncio.timeout(5):
            assert [frame.name for frame in await seen] == ["end"]


async def test_stopping_ends_streams(nats_url: str, tmp_path: Path) -> None:
    """A gateway that stops closes its live streams at once."""
    async with contextlib.AsyncExitStack() as closing:
        stack = await closing.enter_async_context(gateway_stack(nats_url, tmp_path))
        await add_project(stack, "p")
        stream = frames(stack, "/board/stream", "0")
        await anext(stream)
        rest = asyncio.create_task(_all(stream))
        began = time.monotonic()
        await closing.aclose()
        assert time.monotonic() - began < GRACE_SECONDS
        assert await rest == []


async def test_leaving_clients_leave_nothing(nats_url: str, tmp_path: Path) -> None:
    """Connections that break are noticed: what fed them is given up."""
    async with gateway_stack(nats_url, tmp_path) as stack:
        run = await stack.request_run("shop-1")
        for path in ("/board/stream", f"/runs/{run}/output/stream"):
            for _ in range(3):
                host, port = stack.url.removeprefix("http://").split(":")
                with socket.create_connection((host, int(port))) as connection:
                    request = f"GET /api/v1{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.key}\r\n\r\n"
                    connection.sendall(request.encode())
                    await asyncio.sleep(0.1)

        async def are_given_up() -> bool:
            return "cairn_gateway_streams 0.0" in (await stack.client.get("/metrics")).text

        await until(are_given_up)


@pytest.mark.integration
async def test_output_keeps_up(nats_url: str, tmp_path: Path) -> None:
    """At 10,000 lines a second nothing is lost, doubled or out of order. (How late it comes is for `make bench`.)"""
    async with gateway_stack(nats_url, tmp_path) as stack:
        run = await stack.request_run("shop-1")
        await stack.append("run", run, started(run, "shop-1"))
        read_lines: list[int] = []

        async def read() -> None:
            async for frame in frames(stack, f"/runs/{run}/output/stream"):
                if frame.name == "end":
                    return
                read_lines.extend(int(line) for line in frame.data["text"].splitlines())

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.3)
        offset, begin = 0, time.monotonic()
        for tick in range(100):
            await asyncio.sleep(max(0.0, begin + tick * 0.02 - time.monotonic()))
            data = "".join(f"{number}\n" for number in range(tick * 200, (tick + 1) * 200)).encode()
            await stack.jetstream.output.write(run, f"{run}-c1", offset, data)
            offset += len(data)
        await stack.append("run", run, RunSucceeded(summary="", commit=""))
        await reading
        assert read_lines == list(range(20_000))


async def _all(stream: object) -> list[Frame]:
    return [frame async for frame in stream]  # type: ignore[attr-defined]


async def _lines(lines: object, count: int) -> object:
    async for line in lines:  # type: ignore[attr-defined]
        yield line
        count -= 1
        if not count:
            return
