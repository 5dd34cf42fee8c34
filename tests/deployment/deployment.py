"""A deployed Cairn for tests: `make up` with images of this machine, settings and secrets in a folder of the test.

Its repositories lie in the volume of the worker, so that nothing of the host is mounted. Agents play back transcripts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra.embedded.ports import hold_port, port_of
from tests.deployment import images
from tests.system.examples import TEST_COMMAND
from tests.system.stack import CAIRN, Feed, clean_environment

ROOT = Path(__file__).parents[2]
COMMAND_SECONDS = 240.0
REPOSITORIES = "/var/lib/cairn/repositories"
WORKER_SERVICES = ("agent-runner", "environment-manager")
CONTROL_SERVICES = ("scheduler", "gateway", "notifier", "projector")
CAIRN_SERVICES = (*CONTROL_SERVICES, *WORKER_SERVICES)
SERVICES = ("nats", "postgres", *CAIRN_SERVICES)

# A bare repository NAME whose greeting is misspelt.
_MAKE_REPOSITORY = """
work=$(mktemp -d)
git init -q --bare -b main "$0"
git clone -q "$0" "$work" 2>/dev/null
cd "$work"
echo 'Helo, world' >greeting.txt
git add .
git -c user.name=Test -c user.email=test@example.org commit -q -m 'The greeting'
git push -q origin HEAD:main
rm -rf "$work"
"""


class Composed:
    """A Compose project of its own name, with a folder that has ``settings/``; its repositories lie in the volume of
    its environment-manager."""

    def __init__(self, folder: Path, directory: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.settings = folder / "settings"
        self.name = f"cairn-test-{uuid.uuid4().hex[:8]}"
        self.variables = {"COMPOSE_PROJECT_NAME": self.name, **variables}
        self._directory = directory

    def agent(self, name: str, turns: Sequence[Mapping[str, Any]]) -> None:
        """Describe an agent that plays back ``turns``."""
        (self.settings / f"{name}.json").write_text(json.dumps({"turns": turns}))
        with (self.settings / "cairn.toml").open("a") as file:
            file.write(f'\n[agents.{name}]\nkind = "model"\nprovider = "scripted"\ntranscript = "{name}.json"\n')

    def repository(self, name: str) -> str:
        """A bare repository whose greeting is misspelt; answers its URL."""
        place = f"{REPOSITORIES}/{name}.git"
        self.execute("environment-manager", "sh", "-ec", _MAKE_REPOSITORY, place)
        return f"file://{place}"

    def show(self, repository: str, what: str) -> str:
        """What `git show` says in a repository."""
        place = f"{REPOSITORIES}/{repository}.git"
        return self.execute("environment-manager", "git", "-C", place, "show", what)

    def compose(self, *arguments: str) -> str:
        return self._run("docker", "compose", *arguments)

    def execute(self, service: str, *command: str) -> str:
        """What a command in a service's container prints."""
        return self.compose("exec", "-T", service, *command)

    def inspect(self, service: str) -> dict[str, Any]:
        id = self.compose("ps", "-a", "-q", service).strip()
        found: dict[str, Any] = json.loads(self._run("docker", "inspect", id))[0]
        return found

    def addresses(self, service: str) -> list[str]:
        """Its address in each of its networks."""
        networks = self.inspect(service)["NetworkSettings"]["Networks"].values()
        return [network["IPAddress"] for network in networks]

    def reaches(self, service: str, host: str, port: int) -> bool:
        """Whether a container can connect there."""
        script = (
            f"import socket\ntry: socket.create_connection(({host!r}, {port}), 1); print(1)\nexcept OSError: print(0)"
        )
        return self.execute(service, "python", "-c", script).strip() == "1"

    def remove(self) -> None:
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "2", "--remove-orphans")

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self._directory,
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
        return done.stdout


class Deployment(Composed):
    """Use it as a context manager: nothing of it is left afterwards. ``variables`` go into the Compose file; NATS
    listens at the address ``listen`` of this machine."""

    def __init__(self, directory: Path, *, listen: str = "127.0.0.1", **variables: str) -> None:
        folder = directory / "deploy"
        # Nobody else is given them before its containers listen there, or while they are made anew.
        self._held = [hold_port(), hold_port(), hold_port(host=listen)]
        port, jaeger_port, nats_port = map(port_of, self._held)
        given = {
            "CAIRN_DEPLOY": str(folder),
            "CAIRN_PORT": str(port),
            "JAEGER_PORT": str(jaeger_port),
            "CAIRN_NATS_LISTEN": f"{listen}:{nats_port}",
            **variables,
        }
        super().__init__(folder, ROOT, given)
        shutil.copytree(ROOT / "deploy", folder, ignore=shutil.ignore_patterns("secrets", "settings"))
        self.settings.mkdir()
        self.write_settings()

    def __enter__(self) -> Self:
        self.variables |= images.variables()
        try:
            self.up()
        except BaseException:
            print(self.compose("logs", "--no-color", "--tail", "60"))
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.feed.close()
        if error is not None:
            print(self.compose("logs", "--no-color", "--tail", "60"))
        self.remove()
        for held in self._held:
            held.close()

    def up(self) -> None:
        """`make up`, and connect."""
        self._run("make", "up")
        self.url = f"http://127.0.0.1:{self.variables['CAIRN_PORT']}"
        self.key = self.secret("api-key")
        self.feed = Feed(self.url, self.key)

    # ---- asking

    def cairn(self, *arguments: str, exit_code: int = 0) -> str:
        """What ``cairn`` prints, named the gateway by its variables; on a failure what it says on standard error."""
        done = subprocess.run(
            [*CAIRN, *arguments],
            cwd=self.folder,
            env={**clean_environment(), "CAIRN_URL": self.url, "CAIRN_KEY": self.key},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == exit_code, f"cairn {arguments}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stderr if exit_code else done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.cairn(*arguments, "--json"))

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text().strip()

    def write_settings(self, **sections: Mapping[str, Any]) -> None:
        """What every service reads, before any agent is described."""
        written = {"worker": {"grace_seconds": 2.0, "lease_seconds": 5.0}, **sections}
        lines = (
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
            for name, section in written.items()
        )
        (self.settings / "cairn.toml").write_text("".join(lines))

    def project(self, name: str) -> None:
        """One with a repository of its own and the test of the examples."""
        self.cairn("project", "add", name, "--repo", self.repository(name), "--test-command", TEST_COMMAND)

    def submit(self, project: str, title: str, agent: str) -> str:
        return str(self.json("task", "submit", project, title, "--agent", agent)["id"])


def shell(command: str, **fields: Any) -> dict[str, Any]:
    return {"calls": [{"tool": "shell", "arguments": {"command": command}}], **fields}


def submit() -> dict[str, Any]:
    return {"calls": [{"tool": "submit", "arguments": {"summary": "Done."}}]}


def bridge_address() -> str:
    """An address of this machine that containers of any bridge network reach."""
    told = subprocess.run(
        ["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    return told or "172.17.0.1"
