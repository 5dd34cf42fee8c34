"""The deployed stack: what it does, what its containers may do, what is seen of it, and that it can be replaced."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deployment.deployment import CAIRN_SERVICES, SERVICES, Deployment, bridge_address, shell, submit
from tests.otlp_receiver import OtlpReceiver, ReceivedSpan
from tests.system.examples import MEND, MENDED
from tests.system.stack import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

TRACED = {f"cairn-{name}" for name in ("gateway", "scheduler", "agent-runner", "environment-manager", "projector")}


def test_the_main_job(deployed: Deployment, receiver: OtlpReceiver) -> None:
    """From a project to a merged pull request, with one trace from the request to the last tool call."""
    deployed.agent("mender", [shell("cat greeting.txt"), shell(MEND), submit()])
    deployed.project("shop")
    task = deployed.submit("shop", "Mend the greeting", "mender")
    ended = deployed.feed.ended(task)
    deployed.feed.until("EnvironmentRemoved", task)
    assert f"+{MENDED}" in deployed.cairn("pr", "diff", task)
    deployed.cairn("pr", "approve", task)
    deployed.cairn("pr", "merge", task)
    repository = "/var/lib/cairn/repositories/shop.git"
    assert (
        deployed.execute("environment-manager", "git", "-C", repository, "show", "main:greeting.txt") == f"{MENDED}\n"
    )

    trace_id = next(item["trace"] for item in deployed.feed.decisions if item["sequence"] == ended.sequence).split("-")[
        1
    ]
    calls = len(deployed.feed.all("ToolCallStarted", task))

    def complete(spans: list[ReceivedSpan]) -> bool:
        """Each service sends its spans when it has some: what encloses others may come last."""
        mine = [span for span in spans if span.trace_id == trace_id]
        known = {span.span_id for span in mine}
        return (
            sum(span.name == "execute shell" for span in mine) >= calls
            and {span.service for span in mine} >= TRACED
            and all(span.parent_id in known for span in mine if span.parent_id)
        )

    receiver.wait_for(complete, timeout_seconds=30.0)
    receiver.assert_one_trace(trace_id)
    root = next(span for span in receiver.trace(trace_id) if not span.parent_id)
    assert (root.service, root.name) == ("cairn-gateway", "POST /api/v1/projects/{project}/tasks")


def test_doctor_looks_at_the_deployed_stack(deployed: Deployment) -> None:
    """Named by CAIRN_URL: its durability, its hosts and what it lacks, and nothing about servers of this machine."""
    checks = {check["name"]: check for check in deployed.json("doctor")}
    assert checks["gateway"]["verdict"] == "ok"
    assert checks["gateway"]["detail"].startswith(deployed.url)
    assert "power loss takes nothing" in checks["durability"]["detail"]
    assert "local" in checks["workers"]["detail"]
    assert "nats-server" not in checks


def test_containers_may_do_little(deployed: Deployment) -> None:
    """No capability, no new privilege, a root that cannot be written, limits, ports on loopback only."""
    for service in SERVICES:
        found = deployed.inspect(service)
        host, config = found["HostConfig"], found["Config"]
        assert (service, host["ReadonlyRootfs"], host["CapDrop"]) == (service, True, ["ALL"])
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert not host["Privileged"]
        assert host["Memory"] > 0
        assert host["NanoCpus"] > 0
        assert host["PidsLimit"] > 0
        addresses = {port["HostIp"] for ports in (host["PortBindings"] or {}).values() for port in ports}
        assert addresses <= {bridge_address() if service == "nats" else "127.0.0.1"}
        assert not any("docker.sock" in bind["Source"] for bind in found["Mounts"])
        if service in CAIRN_SERVICES:
            assert config["User"] == "10001:10001"
            assert found["State"]["Health"]["Status"] == "healthy"


def test_no_secret_is_shown_by_the_engine(deployed: Deployment) -> None:
    """Passwords and keys are files: they stand in no variable, label or command of a container."""
    secrets = [deployed.secret(name) for name in ("postgres-password", "api-key", "nats-control", "nats-key")]
    for service in SERVICES:
        described = json.dumps(deployed.inspect(service))
        assert [secret for secret in secrets if secret in described] == []


def test_the_image_has_no_compiler(deployed: Deployment) -> None:
    """Nor the servers of `cairn up`; it has git and the engine's client, which a worker may need."""
    programs = "gcc cc make nats-server postgres git docker cairn"
    found = deployed.execute("scheduler", "sh", "-c", f"for name in {programs}; do command -v $name; done; true")
    assert [Path(line).name for line in found.split()] == ["git", "docker", "cairn"]


@pytest.mark.parametrize("service", ["agent-runner", "environment-manager"])
def test_a_worker_reaches_nats_and_no_other_part(deployed: Deployment, service: str) -> None:
    """The database and the gateway have neither a name nor an address in the worker's network."""
    assert deployed.reaches(service, "nats", 4222)
    for other, port in (("postgres", 5432), ("gateway", 8420), ("scheduler", 8421)):
        assert [
            target for target in (other, *deployed.addresses(other)) if deployed.reaches(service, target, port)
        ] == []


def test_a_worker_signs_in_as_one(deployed: Deployment) -> None:
    """Its key opens neither the streams nor what only the scheduler writes."""
    script = """
import asyncio, nats
async def main():
    denied = []
    async def on_error(error): denied.append(str(error))
    client = await nats.connect("nats://nats:4222", nkeys_seed="/run/secrets/nats-key", error_cb=on_error,
                                inbox_prefix=b"_INBOX_local")
    for subject in ("$JS.API.STREAM.DELETE.EVENTS_default", "$JS.API.STREAM.UPDATE.RUNS", "evt.default.task.shop-1",
                    "evt.other.run.x", "host.default.another", "$JS.API.CONSUMER.MSG.NEXT.COMMANDS.scheduler-default"):
        await client.publish(subject, b"{}")
    await client.subscribe("_INBOX.>")
    await client.subscribe("evt.>")
    await client.flush()
    await asyncio.sleep(0.3)
    print(len(denied))
asyncio.run(main())
"""
    assert deployed.execute("agent-runner", "python", "-c", script).strip() == "8"


def test_made_anew_it_goes_on(deployed: Deployment) -> None:
    """An upgrade: every container is replaced, and what was there is there afterwards."""
    before = [(task["id"], task["status"]) for task in deployed.json("task", "list")]
    deployed.compose("up", "--detach", "--wait", "--force-recreate", "--no-deps", *SERVICES)
    assert [(task["id"], task["status"]) for task in deployed.json("task", "list")] == before
    task = deployed.submit("shop", "Mend it once more", "mender")
    deployed.feed.until("RunStarted", task)


def test_jaeger_shows_the_trace(deployed: Deployment) -> None:
    """With the profile `tracing`: one trace from the request to the last tool call, every parent present."""
    if "JAEGER_IMAGE" not in deployed.variables:
        pytest.skip("Jaeger is not here: `python -m tests.deployment.jaeger` builds it where there is a Go toolchain")
    deployed.variables["CAIRN_OTLP_ENDPOINT"] = "http://jaeger:4318"
    deployed.compose("--profile", "tracing", "up", "--detach", "--wait")
    deployed.project("traced")
    task = deployed.submit("traced", "Mend it and be seen", "mender")
    ended = deployed.feed.ended(task)
    (trace,) = (item["trace"] for item in deployed.feed.decisions if item["sequence"] == ended.sequence)
    calls = len(deployed.feed.all("ToolCallStarted", task))
    spans: list[dict[str, Any]] = []

    def complete() -> bool:
        spans[:] = jaeger_spans(deployed.variables["JAEGER_PORT"], trace.split("-")[1])
        known = {span["spanID"] for span in spans}
        found = [span for span in spans if span["operationName"] == "execute shell"]
        return len(found) >= calls and all(parent in known for span in spans for parent in parents(span))

    wait_until(complete, "Jaeger has the whole trace")
    (root,) = (span for span in spans if not list(parents(span)))
    assert root["operationName"] == "POST /api/v1/projects/{project}/tasks"


def jaeger_spans(port: str, trace_id: str) -> list[dict[str, Any]]:
    """The spans of a trace, as Jaeger's query API tells them."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/traces/{trace_id}", timeout=5) as answer:
            (found,) = json.load(answer)["data"]
    except OSError:  # It does not listen yet, or it is a 404, until the first span has come.
        return []
    return list(found["spans"])


def parents(span: dict[str, Any]) -> Iterator[str]:
    for reference in span["references"]:
        if reference["refType"] == "CHILD_OF":
            yield reference["spanID"]
