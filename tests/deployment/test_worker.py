"""A worker elsewhere: one Compose file, one settings file, one key; it connects outward to NATS and to nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deployment.deployment import WORKER_SERVICES, Composed, Deployment, bridge_address, shell, submit
from tests.system.examples import MEND, MENDED, TEST_COMMAND
from tests.system.stack import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


def test_a_worker_from_its_folder(deployed: Deployment, tmp_path: Path) -> None:
    """What `cairn deploy worker` made is started in a network of its own and does the work; it reaches neither the
    database nor the gateway; once revoked, it is out."""
    nats, folder = deployed.variables["CAIRN_NATS_LISTEN"], tmp_path / "acme-1"
    deploy = ("--folder", str(deployed.folder))
    deployed.cairn("deploy", "worker", "acme-1", "--nats", f"nats://{nats}", "--to", str(folder), *deploy)
    deployed.compose("kill", "-s", "HUP", "nats")
    worker = Composed(folder, folder, {"CAIRN_IMAGE": deployed.variables["CAIRN_IMAGE"]})
    for described in (deployed, worker):
        described.agent("elsewhere", [shell(MEND), submit()])
    deployed.compose("stop", *WORKER_SERVICES)
    try:
        worker.compose("up", "--detach", "--wait")
        url = worker.repository("acme")
        deployed.cairn("project", "add", "acme", "--repo", url, "--test-command", TEST_COMMAND)
        task = deployed.submit("acme", "Mend it elsewhere", "elsewhere")
        deployed.feed.ended(task)
        assert deployed.feed.all("EnvironmentPrepared", task)[0].event["host"] == "acme-1"
        assert worker.show("acme", f"cairn/{task}:greeting.txt") == f"{MENDED}\n"

        own = set(worker.inspect("environment-manager")["NetworkSettings"]["Networks"])
        assert own.isdisjoint(deployed.inspect("nats")["NetworkSettings"]["Networks"])
        for service in WORKER_SERVICES:
            assert not worker.inspect(service)["HostConfig"]["PortBindings"]
            for other, port in (("postgres", 5432), ("gateway", 8420)):
                targets = (other, *deployed.addresses(other), bridge_address())
                assert [target for target in targets if worker.reaches(service, target, port)] == []

        deployed.cairn("deploy", "revoke", "acme-1", *deploy)
        deployed.compose("kill", "-s", "HUP", "nats")
        wait_until(lambda: health(worker) == "unhealthy", "the worker is out", 60.0)
    finally:
        worker.remove()
        deployed.compose("start", *WORKER_SERVICES)


def health(worker: Composed) -> str:
    return str(worker.inspect("agent-runner")["State"]["Health"]["Status"])
