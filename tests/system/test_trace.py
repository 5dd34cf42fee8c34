"""One trace from the HTTP request to the last tool call and its projection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.model_server import ModelServer
from tests.otlp_receiver import ReceivedSpan, otlp_receiver
from tests.system.conftest import running
from tests.system.examples import MEND, TEST_COMMAND, repository, shell, submit

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]

SERVICES = {f"cairn-{name}" for name in ("gateway", "scheduler", "agent-runner", "environment-manager", "projector")}


def test_one_trace_through_every_service(model: ModelServer, tmp_path: Path) -> None:
    """The request that submits a task is the root of all that is done for it; no parent is missing."""
    home = tmp_path / "home"
    home.mkdir()
    model.add("Trace it", [shell("cat greeting.txt"), shell(MEND), submit()])
    with otlp_receiver() as receiver:
        with running(home, model, {"telemetry": {"otlp_endpoint": receiver.url}}) as stack:
            stack.project("traced", repository(tmp_path / "repository"), test_command=TEST_COMMAND)
            task = stack.submit("traced", "Trace it", agent="anthropic")
            ended = stack.feed.ended(task)
            stack.feed.until("EnvironmentRemoved", task)
            decisions = {decision["sequence"]: decision for decision in list(stack.feed.decisions)}
            stack.get(f"/tasks/{task}", wait_for=max(decisions))
        # Everything has been exported when the services have ended.
        trace_id = decisions[ended.sequence]["trace"].split("-")[1]
        receiver.assert_one_trace(trace_id)
        spans = receiver.trace(trace_id)

    root = next(span for span in spans if not span.parent_id)
    assert (root.service, root.kind, root.name) == ("cairn-gateway", "server", "POST /api/v1/projects/{project}/tasks")
    assert {span.service for span in spans} >= SERVICES
    by_id = {span.span_id: span for span in spans}
    calls = [span for span in spans if span.name == "execute shell"]
    # Two calls of the agent, and the check of the tests, which its success led to.
    assert len(calls) == 3
    for call in calls:
        assert {span.service for span in _ancestors(call, by_id)} == SERVICES - {"cairn-projector"}
    of_the_task = [sequence for sequence, decision in decisions.items() if trace_id in decision["trace"]]
    projected = {span.attributes["cairn.sequence"] for span in spans if span.name == "project"}
    assert projected >= set(of_the_task)
    assert {decision["entity"] for decision in map(decisions.__getitem__, of_the_task)} >= {
        "task",
        "run",
        "environment",
        "pull_request",
    }


def _ancestors(span: ReceivedSpan, by_id: Mapping[str, ReceivedSpan]) -> Iterator[ReceivedSpan]:
    while span.parent_id:
        span = by_id[span.parent_id]
        yield span
