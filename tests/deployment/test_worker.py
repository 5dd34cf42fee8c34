"""A worker elsewhere: one Compose file, one settings file, one key; it connects outward to NATS and to nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.embedded.ports import free_port
from tests.deployment.deployment import Composed, Deployment, bridge_address, shell, submit
from tests.system.examples import MEND, MENDED, TEST_COMMAND
from tests.system.stack import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

TURNS = [shell(MEND), submit()]


def test_a_worker_from_its_folder(tmp_path: Path) -> None:
    """What `cairn deploy worker` made is started in a network of its own and does the work; it reaches neither the
    database nor the gateway; once revoked, it is out."""
    listen = f"{bridge_address()}:{free_port()}"
    with Deployment(tmp_path, CAIRN_NATS_LISTEN=listen) as control:
        control.agent("mender", TURNS)
        control.compose("stop", "agent-runner", "environment-manager")
        folder = tmp_path / "acme-1"
        deploy = ("--folder", str(control.folder))
        control.cairn("deploy", "worker", "acme-1", "--nats", f"nats://{listen}", "--to", str(folder), *deploy)
        control.compose("kill", "-s", "HUP", "nats")
        worker = Composed(folder, folder, {"CAIRN_IMAGE": control.variables["CAIRN_IMAGE"]})
        worker.agent("mender", TURNS)
        try:
            worker.compose("up", "--detach", "--wait")
            url = worker.repository("shop")
            control.cairn("project", "add", "shop", "--repo", url, "--test-command", TEST_COMMAND)
            task = control.submit("shop", "Mend it elsewhere", "mender")
            control.feed.ended(task)
            assert control.feed.all("EnvironmentPrepared", task)[0].event["host"] == "acme-1"
            assert worker.show("shop", f"cairn/{task}:greeting.txt") == f"{MENDED}\n"

            assert not set(worker.inspect("environment-manager")["NetworkSettings"]["Networks"]) & set(
                control.inspect("nats")["NetworkSettings"]["Networks"]
            )
            for service in ("agent-runner", "environment-manager"):
                assert worker.inspect(service)["HostConfig"]["PortBindings"] in (None, {})
                for other, port in (("postgres", 5432), ("gateway", 8420)):
                    targets = (other, *control.addresses(other), bridge_address())
                    assert [target for target in targets if worker.reaches(service, target, port)] == []

            control.cairn("deploy", "revoke", "acme-1", *deploy)
            control.compose("kill", "-s", "HUP", "nats")
            wait_until(lambda: health(worker) == "unhealthy", "the worker is out", 60.0)
        finally:
            worker.remove()


def health(worker: Composed) -> str:
    return str(worker.inspect("agent-runner")["State"]["Health"]["Status"])
