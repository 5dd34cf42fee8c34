"""The gateway as its own process: start, a port in use, an orderly end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2

from services.gateway.server import GRACE_SECONDS
from tests.nats_server import free_port

START_SECONDS = 20.0


def gateway(home: Path, port: int, nats_url: str = "nats://127.0.0.1:1") -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "CAIRN_HOME": str(home),
        "CAIRN_TENANT": f"p{port}",
        "CAIRN_GATEWAY__PORT": str(port),
        "CAIRN_NATS__URL": nats_url,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "services.gateway"], env=environment, stderr=subprocess.PIPE, text=True
    )


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    """The process ends at once with one line and exit code 2."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = gateway(tmp_path, port)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert len(said.splitlines()) == 1, said
    assert f"port {port} of 127.0.0.1 is in use" in said


def test_an_orderly_end(nats_url: str, tmp_path: Path) -> None:
    """The key that it makes opens a live stream; SIGTERM ends the stream and the process, with exit code 0."""
    port = free_port()
    process = gateway(tmp_path, port, nats_url)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url)
        headers = {"Authorization": f"Bearer {(tmp_path / 'key').read_text().strip()}"}
        with httpx2.Client(base_url=url, headers=headers, timeout=20.0, trust_env=False) as client:
            with client.stream("GET", "/api/v1/board/stream") as response:
                assert response.status_code == 200
                began = time.monotonic()
                threading.Timer(0.2, process.send_signal, (signal.SIGTERM,)).start()
                response.read()
            assert time.monotonic() - began < GRACE_SECONDS
        assert process.wait(10) == 0
        assert process.stderr is not None
        said = process.stderr.read()
        assert "Traceback" not in said, said
        assert "traceback" not in said, said
    finally:
        process.kill()
        process.wait()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx2.get(f"{url}/ready", trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    message = f"no gateway at {url}"
    raise AssertionError(message)
