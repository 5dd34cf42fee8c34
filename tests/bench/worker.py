"""A nats-server and some services of a worker, as processes, for as long as a measurement lasts."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from infra.embedded.nats_server import NatsServer
from infra.embedded.service_program import ServiceProgram
from infra.embedded.stack import SERVICES
from infra.settings import Nats, Settings, Telemetry


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cairn-bench-", ignore_cleanup_errors=True) as path:
        yield Path(path)


@contextlib.contextmanager
def nats_server(home: Path, *, sync_always: bool) -> Iterator[Settings]:
    """Settings of a client of a server of its own."""
    server = NatsServer(home / "nats", sync_always=sync_always)
    with server.start():
        yield Settings(
            home=str(home), nats=Nats(url=server.url), telemetry=Telemetry(health_port=-1, log_level="warning")
        )


def program(settings: Settings, name: str, environment: dict[str, str] | None = None) -> ServiceProgram:
    """A service of the worker ``bench``, not started yet."""
    home = settings.home_path
    return ServiceProgram(
        name,
        SERVICES[name],
        home=home,
        directory=home,
        environment={
            "CAIRN_HOME": str(home),
            "CAIRN_NATS__URL": settings.nats.url,
            "CAIRN_WORKER__HOST": "bench",
            "CAIRN_TELEMETRY__LOG_LEVEL": "warning",
            **(environment or {}),
        },
        stop_seconds=10.0,
    )


@contextlib.contextmanager
def services(settings: Settings, names: Sequence[str], environment: dict[str, str] | None = None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(program(settings, name, environment).start())
        yield


def repository(path: Path) -> Path:
    """A small repository with one commit."""
    path.mkdir(parents=True)
    (path / "README.md").write_text("A repository to work in.\n", encoding="utf-8")
    for command in (
        ("init", "-q", "-b", "main"),
        ("add", "-A"),
        ("-c", "user.name=Bench", "-c", "user.email=bench@localhost", "commit", "-q", "-m", "Begin"),
    ):
        subprocess.run(("git", *command), cwd=path, check=True)
    return path
