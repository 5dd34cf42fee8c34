"""No disk space for the store: before the start, and in the middle of the work."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.model_server import ModelServer
from tests.system.conftest import running
from tests.system.examples import MEND, TEST_COMMAND, lines, repository, shell, submit, until_exists
from tests.system.stack import API, CAIRN, clean_environment, wait_until

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(240),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root"),
]


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_no_space_to_begin_with(tmp_path: Path) -> None:
    """On a disk that is too small nothing is started, and how much is missing is said."""
    with small_disk(tmp_path / "disk", 50) as disk:
        started = subprocess.run(
            [*CAIRN, "up", "--port", "0"],
            cwd=disk,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert started.returncode == 1
        assert "MB are free on the disk of" in started.stderr
        assert "the store needs at least" in started.stderr
        assert not (disk / ".cairn" / "nats").exists()


def test_the_disk_fills_in_the_middle(model: ModelServer, tmp_path: Path) -> None:
    """While it is full nothing is taken that could get lost, and a command that ends is not forgotten; with room
    again the run goes on from there, without anybody's help."""
    go, ran = tmp_path / "go", tmp_path / "ran"
    command = f"echo begun >> '{ran}'; {until_exists(go)}; echo ended >> '{ran}'; exit 7"
    model.add("Outlive it", [shell(command), shell(MEND), submit()])
    # A few hundred megabytes have to do, however much the streams may grow to.
    with small_disk(tmp_path / "disk", 420) as disk, running(disk, model, {}) as stack:
        stack.project("full", repository(tmp_path / "repository"), test_command=TEST_COMMAND)
        task = stack.submit("full", "Outlive it", agent="anthropic")
        wait_until(lambda: lines(ran) == ["begun"], "the command runs")
        server, filler = stack.pid("nats-server"), disk / "filler"
        fill(filler)
        body = {"title": "Not now", "agent": "anthropic", "description": "x" * 100_000}
        refused = stack.http.post(f"{API}/projects/full/tasks", json=body)
        assert refused.status_code == 503
        assert "Nothing is lost; try again" in refused.json()["detail"]
        go.touch()
        wait_until(lambda: lines(ran) == ["begun", "ended"], "the command ends")
        filler.unlink()
        stack.feed.ended(task)
        assert stack.pid("nats-server") != server
        assert stack.feed.until("ToolCallCompleted", task).event["exit_code"] == 7
        assert stack.feed.all("ToolCallUncertain", task) == []
        assert lines(ran) == ["begun", "ended"]
        assert [row["id"] for row in stack.items("/tasks", wait_for=stack.last_sequence())] == [task]


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            return
