"""``cairn up``, ``status`` and ``down`` as a user meets them: real processes in an empty directory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.docker.address import may_answer
from infra.embedded import stack_file
from infra.embedded.stack import SERVERS, SERVICES, CannotStart, check_space
from tests.system.stack import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

CAIRN = (sys.executable, "-P", "-m", "services.command_line")

# Where an engine may answer, the reaper runs too.
PROCESSES = len(SERVERS) + len(SERVICES) + may_answer()


def cairn(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CAIRN, *arguments],
        cwd=directory,
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def _environment(extra: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CAIRN_")}
    return {**kept, **extra}


@contextlib.contextmanager
def running(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*CAIRN, "up", "--port", "0", *arguments],
        cwd=directory,
        env=_environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def stack_status(directory: Path) -> dict[str, dict[str, object]]:
    answer = json.loads(cairn(directory, "status", "--json").stdout)
    return {process["name"]: process for process in answer["processes"]}


def all_ready(directory: Path) -> bool:
    states = [process["state"] for process in stack_status(directory).values()]
    return len(states) == PROCESSES and set(states) == {"ready"}


def runs(pid: int) -> bool:
    """Whether the process lives; an orphan that has ended stays a zombie until init takes it away."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pids_of(directory: Path) -> list[int]:
    file = stack_file.read(directory / ".cairn")
    assert file is not None
    return [entry.pid for entry in file.processes.values()]


def test_a_whole_life(tmp_path: Path) -> None:
    """Up, a service and a server killed and back, a second start refused, down: nothing is left running."""
    with running(tmp_path):
        wait_until(lambda: all_ready(tmp_path), "all are ready", 60.0)
        home = tmp_path / ".cairn"
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "stack.json").stat().st_mode) == 0o600
        assert (tmp_path / "cairn.toml").read_text().startswith("# Settings of Cairn")

        for name in ("scheduler", "nats-server", "postgres"):
            os.kill(int(str(stack_status(tmp_path)[name]["pid"])), signal.SIGKILL)
        wait_until(lambda: all_ready(tmp_path), "all are ready", 60.0)

        second = cairn(tmp_path, "up", "--port", "0")
        assert second.returncode == 1
        assert "runs already" in second.stderr

        below = tmp_path / "some" / "folder"
        below.mkdir(parents=True)
        listed = cairn(below, "project", "list", "--json")
        assert listed.returncode == 0, listed.stderr
        assert json.loads(listed.stdout) == []

        pids = pids_of(tmp_path)
        down = cairn(tmp_path, "down")
        assert down.returncode == 0
        assert not [pid for pid in pids if runs(pid)]
    assert cairn(tmp_path, "status").returncode == 3


def test_what_a_killed_stack_left_is_ended(tmp_path: Path) -> None:
    """After kill -9 of `cairn up` itself the next one ends the orphans and starts with the same data."""
    with running(tmp_path) as first:
        wait_until(lambda: all_ready(tmp_path), "all are ready", 60.0)
        orphans = pids_of(tmp_path)
        first.kill()
        first.wait()
    with running(tmp_path):
        wait_until(lambda: (tmp_path / ".cairn" / "stack.json").exists() and all_ready(tmp_path), "all are ready", 60.0)
        assert not [pid for pid in orphans if runs(pid)]


def test_a_folder_named_like_ours_is_not_imported(tmp_path: Path) -> None:
    """The user's directory may hold packages of our names."""
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    with running(tmp_path):
        wait_until(lambda: all_ready(tmp_path), "all are ready", 60.0)


def test_a_port_in_use(tmp_path: Path) -> None:
    """One line names the port and the option, and nothing was started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = cairn(tmp_path, "up", "--port", str(port))
    assert result.returncode == 2
    assert f"Port {port} on 127.0.0.1 is in use: choose another one with --port." in result.stderr
    assert not (tmp_path / ".cairn" / "stack.json").exists()


def test_settings_with_a_typo(tmp_path: Path) -> None:
    """The message names the file and what was probably meant."""
    (tmp_path / "cairn.toml").write_text("[gateway]\nprot = 8420\n")
    result = cairn(tmp_path, "up")
    assert result.returncode == 2
    assert "cairn.toml" in result.stderr
    assert "Did you mean `port`?" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    """A file where the home should be is told in one line."""
    (tmp_path / "taken").write_text("")
    result = cairn(tmp_path, "up", "--home", "taken/.cairn")
    assert result.returncode == 1
    assert "--home" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_space(tmp_path: Path) -> None:
    """A disk that is nearly full is refused before anything is written to the store."""
    with pytest.raises(CannotStart, match=r"Only \d+ MB are free on the disk of"):
        check_space(tmp_path, minimum_bytes=10**18)


def test_only_an_unused_lock_can_be_taken(tmp_path: Path) -> None:
    """The lock says whether a stack runs, whatever the files say."""
    assert not stack_file.is_running(tmp_path)
    lock = stack_file.try_lock(tmp_path)
    assert lock is not None
    assert stack_file.is_running(tmp_path)
    os.close(lock)
    assert not stack_file.is_running(tmp_path)
