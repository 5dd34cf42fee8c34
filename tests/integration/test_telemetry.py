"""Traces: across processes, to a real receiver, and at no cost where nobody listens."""

from __future__ import annotations

import subprocess
import sys
import timeit

from infra import semantics, telemetry
from infra.settings import Telemetry
from tests.otlp_receiver import otlp_receiver

CHILD = """
import sys
from infra import semantics, telemetry
from infra.settings import Telemetry

telemetry.configure(sys.argv[1], Telemetry(otlp_endpoint=sys.argv[2]))
with telemetry.span("handle", kind="consumer", trace=sys.argv[3], attributes={semantics.MESSAGING_SYSTEM: "nats"}):
    began_here = telemetry.started_span("tool", kind="internal")
    with telemetry.span("inner") as inner:
        inner.set(semantics.GEN_AI_TOOL_NAME, "shell")
    began_here.fail("exit code 1")
    began_here.end()
    try:
        with telemetry.span("broken"):
            raise ValueError("no such thing")
    except ValueError:
        pass
    print(telemetry.current_trace())
telemetry.shutdown()
"""


def run_child(service: str, endpoint: str, trace: str) -> str:
    command = [sys.executable, "-c", CHILD, service, endpoint, trace]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def test_one_trace_spans_two_processes() -> None:
    """A traceparent handed from one process to the next makes one trace with one root and all parents present."""
    with otlp_receiver() as receiver:
        first = run_child("gateway", receiver.url, "")
        run_child("scheduler", receiver.url, first)
        receiver.wait_for(lambda spans: len(spans) == 8)
    receiver.assert_one_trace()
    root, second = receiver.named("handle")
    assert (root.service, root.parent_id) == ("cairn-gateway", "")
    assert ("cairn-scheduler", root.span_id, "consumer") == (second.service, second.parent_id, second.kind)
    assert second.attributes == {semantics.MESSAGING_SYSTEM: "nats"}


def test_spans_tell_what_became_of_the_work() -> None:
    """Attributes set later, a failure that was said and an exception that left the block all arrive."""
    with otlp_receiver() as receiver:
        run_child("gateway", receiver.url, "")
        receiver.wait_for(lambda spans: len(spans) == 4)
    (tool,), (inner,), (broken,) = receiver.named("tool"), receiver.named("inner"), receiver.named("broken")
    assert (tool.failed, tool.message) == (True, "exit code 1")
    assert (inner.failed, inner.attributes[semantics.GEN_AI_TOOL_NAME]) == (False, "shell")
    assert (broken.failed, broken.message) == (True, "no such thing")
    assert broken.attributes == {semantics.ERROR_TYPE: "ValueError"}
    assert len({span.parent_id for span in (tool, inner, broken)}) == 1, "a started span is not the current one"


def test_a_process_ends_in_time_without_its_receiver() -> None:
    """Spans that nobody takes are dropped, and the process ends by itself."""
    assert run_child("gateway", "http://127.0.0.1:9", "")


def test_without_an_endpoint_the_sdk_is_not_imported() -> None:
    """Nothing of OpenTelemetry is loaded where no endpoint is set, whatever spans begin and end."""
    program = (
        "import sys\n"
        "from infra import telemetry\nfrom infra.settings import Telemetry\n"
        "telemetry.configure('x', Telemetry())\n"
        "with telemetry.span('a'): pass\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_without_an_endpoint_the_parent_is_passed_on() -> None:
    """The given context is handed on unchanged, is the current one inside, and is gone afterwards."""
    parent = telemetry.new_trace()
    with telemetry.span("outer", trace=parent) as outer:
        assert parent == outer.trace == telemetry.current_trace() == telemetry.started_span("inner").trace
    assert telemetry.current_trace() == ""


def test_without_an_endpoint_a_root_is_fresh() -> None:
    """Each root without a parent gets a traceparent of its own."""
    telemetry.configure("x", Telemetry())
    traces = {telemetry.started_span("root").trace for _ in range(100)}
    assert len(traces) == 100
    assert all(telemetry.valid_trace(trace) for trace in traces)


def test_without_an_endpoint_a_span_costs_next_to_nothing() -> None:
    """Half a microsecond was measured; ten times that still shows that nothing is recorded."""
    parent = telemetry.new_trace()

    def one_span() -> None:
        with telemetry.span("a", trace=parent):
            pass

    assert min(timeit.repeat(one_span, number=10_000, repeat=5)) / 10_000 < 5e-6


def test_what_comes_from_outside_is_checked() -> None:
    """Only a well-formed traceparent is taken from a header."""
    good = telemetry.new_trace()
    assert good == telemetry.valid_trace(good)
    for bad in (None, "", "junk", good[:-1], good + "\n", good.upper(), f"00-{'0' * 32}-{'1' * 16}-01"):
        assert telemetry.valid_trace(bad) == "", bad
