"""What holds after every run, whatever was done to it."""

from __future__ import annotations

from typing import Any

from tests.model_server import ModelServer
from tests.system.stack import Happened, SystemStack


def requests_of(model: ModelServer, title: str) -> list[dict[str, Any]]:
    """The bodies of the requests of one conversation."""
    return [request.body for request in model.requests if title in str(request.body)]


def assert_calls_ended_once(stack: SystemStack, task: str) -> None:
    """Every call that was requested has exactly one end, and was started once."""
    requested = {item.event["call_id"] for item in stack.feed.all("ToolCallRequested", task)}
    ends = [
        item.event["call_id"]
        for kind in ("ToolCallCompleted", "ToolCallFailed", "ToolCallInterrupted")
        for item in stack.feed.all(kind, task)
    ]
    started = [item.event["call_id"] for item in stack.feed.all("ToolCallStarted", task)]
    assert len(ends) == len(set(ends))
    assert len(started) == len(set(started))
    submits = {item.event["call_id"] for item in stack.feed.all("ToolCallRequested", task, tool="submit")}
    assert requested - submits <= set(ends)


def assert_heard_once(stack: SystemStack, last: Happened) -> None:
    """The stream told every decision of the log, each once and in order, over all reconnects."""
    stack.feed.until_sequence(last.sequence)
    heard = [decision["sequence"] for decision in stack.feed.decisions if decision["sequence"] <= last.sequence]
    logged = [decision["sequence"] for decision in stack.items("/events", limit=1000)]
    assert heard == [sequence for sequence in logged if sequence <= last.sequence]


def assert_read_models_equal_a_rebuild(stack: SystemStack) -> None:
    """What the projector kept up to date is what a rebuild from the log gives. What is decided meanwhile makes it begin
    anew: the two could not be the same."""
    while True:
        last = stack.last_sequence()
        before = stack.read_models()
        stack.rebuild_read_models()
        rebuilt = stack.read_models()
        if stack.last_sequence() == last:
            break
    assert rebuilt == before
