"""A service as a real process, for tests: started, asked, waited for and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class ServiceProcess:
    """A service as a process in the folder ``home``, with what it says and where it answers."""

    def __init__(self, name: str, command: Sequence[str], home: Path, nats_url: str, **environment: str) -> None:
        self.name = name
        self.home = home
        home.mkdir(exist_ok=True)
        self._errors = (home / "stderr").open("a")
        self.popen = subprocess.Popen(
            [sys.executable, *command],
            cwd=home,
            env=os.environ | {"CAIRN_HOME": str(home), "CAIRN_NATS__URL": nats_url} | environment,
            stderr=self._errors,
        )

    @property
    def stderr(self) -> str:
        return (self.home / "stderr").read_text()

    @property
    def run_file(self) -> Path:
        return self.home / "run" / f"{self.name}.json"

    def log_lines(self, event: str) -> list[dict[str, object]]:
        whole = self.stderr.rpartition("\n")[0]  # The last line may be half written.
        found = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        try:
            url = json.loads(self.run_file.read_text())["health"]
            with urllib.request.urlopen(url + path, timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, {}

    def wait(self) -> int:
        return self.popen.wait(40)

    def until_ready(self) -> None:
        self.until(lambda: self.get("/ready")[0] == 200)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 40
        while not holds():
            assert time.monotonic() < deadline, f"not in time: {self.get('/ready')} {self.stderr}"
            time.sleep(0.01)

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait()
        self._errors.close()
