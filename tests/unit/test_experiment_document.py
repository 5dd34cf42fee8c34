"""Documents of experiments: what is read, and what is refused with its place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from events.errors import Invalid
from events.faults import DropNetwork
from services.chaos.document import Command, Compose, Fault, Http, Probe, parse
from services.chaos.tolerances import Answer, look_up, read_tolerance, why_not

YAML = """
title: The database is cut off
description: What the API does then.
tags: [database]
configuration: {seconds: 20, path: /health, host: "${api:8080}"}
steady-state-hypothesis:
  title: The API answers
  probes:
    - type: probe
      name: health
      tolerance: [200, 204]
      provider: {type: http, url: "http://${api:8080}${path}"}
    - {type: probe, name: database is there, provider: {type: service_healthy, service: database}}
method:
  - type: action
    name: cut off
    background: true
    pauses: {before: 1, after: 2.5}
    provider: {type: fault, kind: drop_network, service: api, peer: database, duration_seconds: "${seconds}"}
  - type: probe
    name: jobs
    tolerance: {type: jsonpath, path: "$.jobs[*].state", expect: [done, done], target: body}
    provider: {type: command, command: "cat jobs.json", timeout: 5}
rollbacks:
  - {type: action, name: again, provider: {type: compose, action: restart, service: api}}
extensions:
  - name: somebody else's
    anything: goes
  - name: cairn
    recovery_seconds: 10
    longest_seconds: 60
    observe:
      - name: status
        interval_seconds: 0.5
        hold: 0.9
        tolerance: 200
        provider: {type: http, url: "http://${api:8080}/"}
    guards:
      - {name: no loss, failures: 2, tolerance: true, provider: {type: tcp, address: "${api:8080}"}}
"""


def minimal(**changes: Any) -> dict[str, Any]:
    fault = {"type": "fault", "kind": "kill_service", "service": "api", "duration_seconds": 5}
    return {"title": "t", "method": [{"type": "action", "name": "kill", "provider": fault}], **changes}


def test_a_document_is_read_as_it_is_meant() -> None:
    """Everything of the shape, with the configuration's values in their own types and published ports left alone."""
    document = parse(YAML)
    first, second = document.method
    assert isinstance(first.work, Fault)
    assert first.work.fault == DropNetwork(service="api", peer="database", duration_seconds=20)
    assert (first.background, first.pause_before, first.pause_after) == (True, 1.0, 2.5)
    assert isinstance(second.work, Probe)
    assert second.work.provider == Command(command="cat jobs.json", timeout=5)
    assert document.hypothesis[0].provider == Http(url="http://${api:8080}/health")
    assert document.hypothesis[1].tolerance is not None
    assert document.rollbacks[0].work == Compose(action="restart", service="api")
    assert (document.observed[0].hold, document.guards[0].failures) == (0.9, 2)
    assert (document.recovery_seconds, document.longest_seconds) == (10, 60)


def test_json_is_read_too() -> None:
    """And means the same."""
    assert (
        parse(json.dumps(minimal())).method
        == parse("{title: t, method: " + json.dumps(minimal()["method"]) + "}").method
    )


PROBE = {"type": "probe", "name": "p", "provider": {"type": "http", "url": "http://x"}}
OURS = {"name": "cairn"}


@pytest.mark.parametrize(
    ("document", "place", "said"),
    [
        ("", "", "an object"),
        ("title: [", "", "neither JSON nor YAML"),
        ("!!python/object/apply:os.system ['true']", "", "neither JSON nor YAML"),
        ("&a [*a, *a]", "", "aliases are not read here"),
        (minimal(title=""), "title", "a text is needed"),
        ({"title": "t"}, "method", "it is empty"),
        (minimal(methods=[]), "", "'methods' is no field here. Did you mean method?"),
        (minimal(method=[{"type": "acton", "name": "a"}]), "method[0].type", "neither 'action' nor 'probe'"),
        (minimal(method=[{"type": "action", "name": "a", "provider": {"type": "python"}}]), "method[0].provider.type",
         "There are: fault, compose."),
        (minimal(method=[{"type": "action", "name": "a", "provider": {"type": "process", "path": "rm"}}]),
         "method[0].provider.type", "no provider of actions"),
        (minimal(method=[{**PROBE, "provider": {"type": "htp"}}]), "method[0].provider.type", "Did you mean http?"),
        (minimal(method=[{**PROBE, "provider": {"type": "http"}}]), "method[0].provider", "http takes url, method"),
        (minimal(method=[{**PROBE, "provider": {"type": "http", "url": "x", "timeout": 0}}]),
         "method[0].provider.timeout", "between 0 and 300"),
        (minimal(method=[{**PROBE, "background": True}]), "method[0].background", "only a fault goes on"),
        (minimal(method=[{**minimal()["method"][0], "tolerance": 1}]), "method[0].tolerance", "an action has no"),
        (minimal(method=[{**minimal()["method"][0], "pauses": {"between": 1}}]), "method[0].pauses", "'between'"),
        (minimal(method=[{**minimal()["method"][0], "pauses": {"after": -1}}]), "method[0].pauses.after", "-1 is not"),
        (minimal(method=[{**minimal()["method"][0], "pauses": {"after": float("inf")}}]), "method[0].pauses.after",
         "no number of seconds"),
        (minimal(method=minimal()["method"] * 51), "method", "at most 50"),
        (minimal(configuration={"key": {"type": "env", "key": "AWS_SECRET"}}), "configuration.key", "cannot"),
        (minimal(description="${nothing}", method=[{**PROBE, "name": "${nothing}"}]), "method[0].name",
         "${nothing} is not in the configuration, which has nothing"),
        (minimal(**{"steady-state-hypothesis": {"probes": [PROBE]}}), "steady-state-hypothesis.probes[0]",
         "needs a tolerance"),
        (minimal(rollbacks=minimal()["method"]), "rollbacks[0]", "faults are undone in any case"),
        (minimal(extensions=[{**OURS, "observed": []}]), "extensions[0]", "Did you mean observe?"),
        (minimal(extensions=[{**OURS, "observe": [{**PROBE, "tolerance": 1, "hold": 2}]}]),
         "extensions.cairn.observe[0].hold", "no fraction"),
        (minimal(extensions=[{**OURS, "observe": [{**PROBE, "tolerance": 1}] * 2}]), "extensions.cairn",
         "two probes are named 'p'"),
        (minimal(extensions=[{**OURS, "guards": [{**PROBE, "tolerance": 1, "failures": 0}]}]),
         "extensions.cairn.guards[0].failures", "in a row"),
        (minimal(extensions=[{**OURS, "longest_seconds": 1e9}]), "extensions.cairn.longest_seconds", "3600"),
        (minimal(method=[{**PROBE, "tolerance": {"type": "regex", "pattern": "("}}]), "method[0].tolerance.pattern",
         "no regular expression"),
        (minimal(method=[{**PROBE, "tolerance": {"type": "probe"}}]), "method[0].tolerance.type",
         "range, regex, jsonpath"),
        (minimal(method=[{**PROBE, "tolerance": {"type": "range", "range": [2, 1]}}]), "method[0].tolerance.range",
         "least and the most"),
        (minimal(method=[{**PROBE, "tolerance": {"type": "jsonpath", "path": "jobs"}}]), "method[0].tolerance.path",
         "$.jobs[*].state"),
        ("x" * 200_000, "", "at most 131072"),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, dict) else "",
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_place(document: Any, place: str, said: str) -> None:
    """And with what may stand there."""
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(Invalid) as refused:
        parse(text)
    assert str(refused.value).startswith(f"experiment{f', {place}' if place else ''}: ")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("tolerance", "answer", "why"),
    [
        (200, Answer(value=200), ""),
        (200, Answer(value=503), "it is not 200"),
        ([200, 204], Answer(value=201), "it is not 200 or 204"),
        (True, Answer(value=1), "it is not true"),
        ("running", Answer(value="exited"), "it is not running"),
        ({"type": "regex", "pattern": "o+k"}, Answer(value=200, text="all ok"), ""),
        ({"type": "regex", "pattern": "ok"}, Answer(value=500, text="not ok", failed=True), "it is an error"),
        ({"type": "range", "range": [1, 5]}, Answer(value=0, text=" 3.5\n"), ""),
        ({"type": "range", "range": [1, 5]}, Answer(value=7), "it is not between 1 and 5"),
        ({"type": "range", "range": [1, 5]}, Answer(value=0, text="many"), "it is no number"),
        ({"type": "jsonpath", "path": "$.a[0].b", "expect": 1}, Answer(value=200, text='{"a": [{"b": 1}]}'), ""),
        ({"type": "jsonpath", "path": "$.lost[*]", "expect": []}, Answer(value=200, text='{"lost": [7, 9]}'),
         "$.lost[*] is [7, 9], not []"),
        ({"type": "jsonpath", "path": "$.a"}, Answer(value=200, text="{}"), "$.a finds nothing"),
        ({"type": "jsonpath", "path": "$.a"}, Answer(value=200, text="<html>"), "it is no JSON"),
    ],
)  # fmt: skip
def test_tolerances(tolerance: Any, answer: Answer, why: str) -> None:
    """What a probe's answer must be, and why it is not."""
    assert why_not(read_tolerance(tolerance, "tolerance"), answer) == why


def test_what_would_grow_beyond_all_memory_is_refused() -> None:
    """Aliases of aliases, and nesting without end: each at once, and as a refusal."""
    bomb = "title: &a0 [x, x]\n" + "".join(f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    nested = '{"title": ' + "[" * 60_000 + "]" * 60_000 + "}"
    shallow = "title: t\nmethod: [{type: action, name: a, provider: {type: " + "[" * 300 + "]" * 300 + "}}]"
    for text in (bomb, nested, shallow):
        with pytest.raises(Invalid):
            parse(text)


def test_paths_into_json() -> None:
    """Names, quoted names, numbers, and everything."""
    document = {"jobs": [{"id": 1, "the state": "done"}, {"id": 2}], "counts": {"a": 1, "b": 2}}
    assert look_up(document, "$.jobs[*].id") == [1, 2]
    assert look_up(document, "$.jobs[0]['the state']") == ["done"]
    assert look_up(document, "$.counts.*") == [1, 2]
    assert look_up(document, "$.jobs[5].id") == []
