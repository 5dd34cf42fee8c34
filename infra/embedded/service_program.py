"""A service of Cairn as a program: the same Python, isolated from the directory that it is started in.

It is ready when its own ``/ready`` says so; where that is, it writes to ``<home>/run/<name>.json``.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from infra.embedded.program import Launch, Program


class RunFile(msgspec.Struct):
    """``<home>/run/<name>.json``: which process runs as the service, and where it answers about its health."""

    pid: int
    health: str


class ServiceProgram(Program):
    """``python -m module`` with ``environment`` over our own, in ``directory``."""

    def __init__(
        self,
        name: str,
        module: str,
        *,
        home: Path,
        directory: Path,
        environment: Mapping[str, str],
        stop_seconds: float,
    ) -> None:
        super().__init__(name, home / "logs" / f"{name}.log")
        self.stop_seconds = stop_seconds
        self._module = module
        self._home = home
        self._directory = directory
        self._environment = environment

    def launch(self) -> Launch:
        # -P: a folder of the user's that is named like one of ours must not be imported in its place.
        argv = (sys.executable, "-P", "-m", self._module)
        return Launch(argv=argv, environment=self._environment, directory=self._directory)

    def is_ready(self) -> bool:
        run_file = read_run_file(self._home, self.name)
        return run_file is not None and run_file.pid == self.pid and not unready_reason(run_file)


def read_run_file(home: Path, name: str) -> RunFile | None:
    try:
        return msgspec.json.decode((home / "run" / f"{name}.json").read_bytes(), type=RunFile)
    except (OSError, msgspec.MsgspecError):
        return None


def unready_reason(run_file: RunFile) -> str:
    """Why the service is not ready, in its own words; empty where it is."""
    connection = http.client.HTTPConnection(urlsplit(run_file.health).netloc, timeout=1.0)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == http.HTTPStatus.OK:
            return ""
        unmet = msgspec.json.decode(body, type=dict[str, object]).get("unmet")
        return ", ".join(f"{name}: {why}" for name, why in unmet.items()) if isinstance(unmet, dict) else "not ready"
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        return f"does not answer ({error})"
    finally:
        connection.close()
