"""The files of a deployment, and a look at one from outside."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import nkeys
import pytest

from infra.settings import load
from tests.command_line.conftest import Run, run_alone
from tests.command_line.stub_gateway import Answer, StubGateway

AUTHORITY = Path(__file__).with_name("authority.pem")
STATUS = {
    "durability": {"level": "always", "sentence": "power loss takes nothing"},
    "queue": {"running": 2},
    "runs_held": [],
    "hosts": {"local": 1.5},
    "services": {"agent-runner": False, "projector": True, "scheduler": True},
    "log": 7,
    "unmet": {},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present directory, with the worker's Compose file in ``deploy/``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deploy" / "worker").mkdir(parents=True)
    (tmp_path / "deploy" / "worker" / "docker-compose.yml").write_text("services: {}\n")
    return tmp_path


def test_init_makes_what_is_missing_and_nothing_else(here: Path) -> None:
    """Asking again changes nothing; secrets lie in a folder that only their owner can enter."""
    assert run_alone("deploy", "init").exit_code == 0
    secrets = here / "deploy" / "secrets"
    first = {path: path.read_text() for path in secrets.rglob("*") if path.is_file()}
    assert {path.name for path in first} >= {"postgres-password", "api-key", "nats-control", "nats-key", "users.conf"}
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    (here / "deploy" / "settings" / "cairn.toml").write_text("# mine\n")
    assert run_alone("deploy", "init").exit_code == 0
    assert {path: path.read_text() for path in secrets.rglob("*") if path.is_file()} == first
    assert (here / "deploy" / "settings" / "cairn.toml").read_text() == "# mine\n"


def test_a_strict_umask_shuts_no_container_out(here: Path) -> None:
    """Containers run as another user: what they are given can be read, though nobody passes the folder of secrets."""
    before = os.umask(0o077)
    try:
        assert run_alone("deploy", "init").exit_code == 0
        made = run_alone("deploy", "worker", "acme-1", "--nats", "nats://nats:4222", "--to", "acme-1")
        assert made.exit_code == 0, made.output
    finally:
        os.umask(before)
    for root in (here / "deploy", here / "acme-1"):
        secrets = root / "secrets"
        assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
        given = [root / "settings", *secrets.rglob("*"), *(root / "settings").rglob("*")]
        assert {stat.S_IMODE(path.stat().st_mode) for path in given} == {0o755, 0o644}


def test_a_worker_gets_a_folder_and_the_server_its_public_key(here: Path) -> None:
    """The key itself is in the worker's folder only; its settings can be read; once revoked it is not known."""
    run_alone("deploy", "init")
    made = run_alone("deploy", "worker", "acme-1", "--nats", "tls://nats.example.org:4222", "--to", "acme-1")
    assert made.exit_code == 0, made.output
    seed = (here / "acme-1" / "secrets" / "nats-key").read_text()
    public = nkeys.from_seed(bytearray(seed.encode())).public_key.decode()
    users = here / "deploy" / "secrets" / "nats" / "users.conf"
    assert public in users.read_text()
    assert seed not in users.read_text()
    settings = load(here / "acme-1" / "settings" / "cairn.toml", {})
    assert (settings.host, settings.nats.url, settings.nats.inbox) == (
        "acme-1",
        "tls://nats.example.org:4222",
        "_INBOX_acme-1",
    )
    assert (here / "acme-1" / "docker-compose.yml").is_file()
    again = run_alone("deploy", "worker", "acme-1", "--nats", "tls://nats.example.org:4222", "--to", "other")
    assert (again.exit_code, (here / "other").exists()) == (1, False)
    assert "already" in again.output
    assert run_alone("deploy", "revoke", "acme-1").exit_code == 0
    assert public not in users.read_text()
    assert run_alone("deploy", "revoke", "acme-1").exit_code == 1


def test_a_worker_knows_the_authority_of_nats(here: Path) -> None:
    """It lies beside the worker's settings, which name it where its containers see it."""
    run_alone("deploy", "init")
    made = run_alone("deploy", "worker", "w", "--nats", "tls://nats:4222", "--nats-ca", str(AUTHORITY), "--to", "new")
    assert made.exit_code == 0, made.output
    assert (here / "new" / "settings" / "nats-ca.pem").read_bytes() == AUTHORITY.read_bytes()
    assert load(here / "new" / "settings" / "cairn.toml", {}).nats.tls_ca == "/etc/cairn/nats-ca.pem"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["w", "--to", "new"], "cairn deploy init"),
        (["a.b", "--to", "new"], "cannot name a worker"),
        (["w", "--to", "deploy"], "is there already"),
        (["w", "--to", "new", "--folder", "nowhere"], "no nowhere/worker/docker-compose.yml"),
    ],
)
def test_a_worker_that_cannot_be(here: Path, arguments: list[str], said: str) -> None:
    """What is wrong is said, and nothing is made."""
    result = run_alone("deploy", "worker", *arguments, "--nats", "nats://nats:4222")
    assert result.exit_code == 1
    assert said in " ".join(result.output.split())
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nats", "nats.example.org"], "no address of NATS"),
        (["--nats", 'nats://n"\n[worker]'], "no address of NATS"),
        (["--nats", r"nats://n\x"], "no address of NATS"),
        (["--nats", "tls://n:4222", "--nats-ca", "deploy/worker/docker-compose.yml"], "holds no certificates"),
        (["--nats", "tls://n:4222", "--nats-ca", "binary"], "holds no certificates"),
        (["--nats", "tls://n:4222", "--nats-ca", "nowhere"], "does not exist"),
    ],
)
def test_a_server_that_cannot_be(here: Path, arguments: list[str], said: str) -> None:
    """An address that is none, and files that are no certificates, are refused before a key is made."""
    run_alone("deploy", "init")
    (here / "binary").write_bytes(bytes(range(256)))
    before = (here / "deploy" / "secrets" / "nats" / "users.conf").read_text()
    result = run_alone("deploy", "worker", "w", "--to", "new", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert not (here / "new").exists()
    assert (here / "deploy" / "secrets" / "nats" / "users.conf").read_text() == before


def test_doctor_looks_at_what_is_named(run: Run, gateway: StubGateway) -> None:
    """The gateway's own word of the whole, and nothing of this machine."""
    gateway.on("GET /status", Answer(STATUS))
    result = run("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = {check["name"]: check["detail"] for check in json.loads(result.stdout)}
    assert set(found) == {"gateway", "durability", "workers", "services", "read models"}
    assert found["services"] == "nobody does the work of agent-runner: look at their logs"
    assert found["read models"] == "tasks: 2 running"


def test_status_of_what_is_named(run: Run, gateway: StubGateway) -> None:
    """A row for each service and worker that the gateway can see, in the shape of a stack on this machine."""
    gateway.on("GET /status", Answer(STATUS))
    result = run("status", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["running"]
    assert {row["name"]: row["state"] for row in found["processes"]} == {
        "gateway": "ready",
        "agent-runner": "not ready",
        "projector": "ready",
        "scheduler": "ready",
        "worker local": "ready",
    }
    assert "nobody does its work" in run("status").stdout


def test_doctor_misses_workers(run: Run, gateway: StubGateway) -> None:
    """Without a worker nothing is done, and what a service lacks is shown."""
    gateway.on("GET /status", Answer(STATUS | {"hosts": {}, "queue": None, "unmet": {"nats": "away"}}))
    result = run("doctor", "--json")
    assert result.exit_code == 1
    found = {check["name"]: check["verdict"] for check in json.loads(result.stdout)}
    assert found == {
        "gateway": "ok",
        "nats": "warning",
        "durability": "ok",
        "workers": "missing",
        "services": "warning",
        "read models": "warning",
    }


def test_doctor_reaches_nobody(here: Path) -> None:
    """A gateway that does not answer is what is missing."""
    result = run_alone("--url", "http://127.0.0.1:9", "--key", "k", "doctor", "--json")
    assert result.exit_code == 1
    (check,) = json.loads(result.stdout)
    assert "No Cairn answers at http://127.0.0.1:9" in check["detail"]
