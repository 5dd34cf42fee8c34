"""The frame: a trivial service as a real process, against a real nats-server."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.nats_server import NatsServer, free_port
from tests.service_process import ServiceProcess

PROGRAM = """
import asyncio, sys
from infra.service import run

class Trivial:
    async def stop(self):
        if sys.argv[1] == "never-stops":
            await asyncio.sleep(3600)
        if sys.argv[1] == "stops-badly":
            raise ValueError("cannot stop")

async def start(runtime):
    if sys.argv[1] == "never-starts":
        await asyncio.sleep(3600)
    if sys.argv[1] == "starts-badly":
        raise ValueError("cannot start")
    if sys.argv[1] == "breaks":
        async def part():
            raise ValueError("a part broke")
        runtime.guard(asyncio.create_task(part()))
    return Trivial()

sys.exit(run("trivial", start))
"""


@contextmanager
def service(home: Path, behaviour: str, nats_url: str, **environment: str) -> Iterator[ServiceProcess]:
    process = ServiceProcess("trivial", ["-c", PROGRAM, behaviour], home, nats_url, **environment)
    try:
        yield process
    finally:
        process.close()


def test_a_service_gets_ready_and_stops_gracefully(nats_url: str, tmp_path: Path) -> None:
    """Ready with NATS up; SIGTERM ends it with exit code 0 and takes its run file away."""
    with service(tmp_path, "works", nats_url) as process:
        process.until_ready()
        assert json.loads(process.run_file.read_text())["pid"] == process.popen.pid
        assert process.get("/health")[0] == 200
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert not process.run_file.exists()
        assert process.log_lines("ready")
        assert process.log_lines("stopped")


def test_it_waits_for_nats(tmp_path: Path) -> None:
    """Healthy but not ready while NATS is away, said once; ready when it comes; not ready when it goes again."""
    server = NatsServer(tmp_path / "nats")
    with service(tmp_path / "home", "works", f"nats://someone:hidden@127.0.0.1:{server.port}") as process:
        process.until(lambda: process.get("/health")[0] == 200)
        process.until(lambda: bool(process.log_lines("waiting for NATS")))
        status, body = process.get("/ready")
        assert (status, list(body["unmet"])) == (503, ["started", "nats"])
        for _ in range(2):
            server.start()
            process.until_ready()
            server.kill()
            process.until(lambda: process.get("/ready")[0] == 503)
        assert len(process.log_lines("waiting for NATS")) == 1
        assert "hidden" not in process.stderr


def test_it_stops_while_it_waits_for_nats(tmp_path: Path) -> None:
    """A signal before NATS is there ends the process at once and well."""
    with service(tmp_path, "works", f"nats://127.0.0.1:{free_port()}") as process:
        process.until(lambda: bool(process.log_lines("waiting for NATS")))
        process.popen.send_signal(signal.SIGINT)
        assert process.wait() == 0


def test_a_start_under_way_can_be_stopped(nats_url: str, tmp_path: Path) -> None:
    """A signal while the service starts ends the process at once and well."""
    with service(tmp_path, "never-starts", nats_url) as process:
        process.until(lambda: process.get("/ready")[1].get("unmet") == {"started": "starting"})
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 0


def test_it_is_not_ready_before_it_has_started(nats_url: str, tmp_path: Path) -> None:
    """Not for a moment, however often it is asked meanwhile."""
    with service(tmp_path, "never-starts", nats_url) as process:

        def ask(_: int) -> set[int]:
            deadline, statuses, unmet = time.monotonic() + 20, set[int](), None
            while unmet != {"started": "starting"}:
                assert time.monotonic() < deadline, unmet
                status, body = process.get("/ready")
                statuses.add(status)
                unmet = body.get("unmet")
            return statuses

        with ThreadPoolExecutor(4) as pool:
            found = set[int]().union(*pool.map(ask, range(4)))
    assert found - {0} == {503}  # 0: nobody answers yet.


def test_a_failure_at_start_is_one_line(nats_url: str, tmp_path: Path) -> None:
    """The cause stands in one log line, and the exit code is 1."""
    with service(tmp_path, "starts-badly", nats_url) as process:
        assert process.wait() == 1
        assert [line["error"] for line in process.log_lines("not started")] == ["ValueError: cannot start"]


def test_a_guarded_part_that_breaks_ends_the_process(nats_url: str, tmp_path: Path) -> None:
    """A service that lost a part does not go on as if nothing were: it stops with exit code 1, to be started anew."""
    with service(tmp_path, "breaks", nats_url) as process:
        assert process.wait() == 1
        assert "ValueError: a part broke" in process.stderr


def test_a_failure_at_stop_is_told(nats_url: str, tmp_path: Path) -> None:
    """A stop that raises is said in one line, and the exit code is 1."""
    with service(tmp_path, "stops-badly", nats_url) as process:
        process.until_ready()
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 1
        assert [line["error"] for line in process.log_lines("not stopped well")] == ["ValueError: cannot stop"]


def test_the_grace_has_an_end(nats_url: str, tmp_path: Path) -> None:
    """A service that does not stop within the grace is cut off."""
    with service(tmp_path, "never-stops", nats_url, CAIRN_WORKER__GRACE_SECONDS="0.2") as process:
        process.until_ready()
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 1
        assert process.log_lines("not stopped in time")


def test_a_second_signal_ends_it_at_once(nats_url: str, tmp_path: Path) -> None:
    """Whoever presses Ctrl-C twice does not wait for the grace."""
    with service(tmp_path, "never-stops", nats_url) as process:
        process.until_ready()
        process.popen.send_signal(signal.SIGINT)
        process.until(lambda: bool(process.log_lines("stopping")))
        process.popen.send_signal(signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT


def test_bad_settings_are_named(tmp_path: Path) -> None:
    """A setting that does not exist gives one line that names it, and exit code 2."""
    with service(tmp_path, "works", "nats://127.0.0.1:1", CAIRN_NATS__URLL="x") as process:
        assert process.wait() == 2
        assert "Did you mean `url`?" in process.stderr
        assert len(process.stderr.splitlines()) == 1


def test_bad_log_settings_are_named(tmp_path: Path) -> None:
    """A log format that does not exist is refused like any other setting."""
    with service(tmp_path, "works", "nats://127.0.0.1:1", CAIRN_TELEMETRY__LOG_FORMAT="xml") as process:
        assert process.wait() == 2
        assert "it can be json or console" in process.stderr


def test_a_health_port_in_use_is_named(tmp_path: Path) -> None:
    """The line says which port and what to set; the exit code is 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with service(tmp_path, "works", "nats://127.0.0.1:1", CAIRN_TELEMETRY__HEALTH_PORT=str(port)) as process:
            assert process.wait() == 1
            assert f"127.0.0.1:{port} is in use: set telemetry.health_port" in process.stderr


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The line says which file could not be written and what to set."""
    (tmp_path / "file").write_text("not a folder")
    with service(tmp_path, "works", "nats://127.0.0.1:1", CAIRN_HOME=str(tmp_path / "file")) as process:
        assert process.wait() == 1
        assert "cannot be written" in process.stderr
