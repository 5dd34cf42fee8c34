"""A second Docker engine, of a test's own, which may be killed: with its own folder, socket and containerd.

It runs in a network namespace of its own, since an engine changes the host's network: told to have no bridge, it
removes that of the other engine. Its containers have no network. Where it cannot be (no root, no ``dockerd``, no engine
to take the base image from) tests are skipped with the reason, or fail in CI.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests.engine import BASE_IMAGE
from tests.needs import missing

START_SECONDS = 90.0
# ``unshare`` becomes what it starts, under the same number.
PROGRAM = ("unshare", "--net", "dockerd")
OPTIONS = ("--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false")


class SecondEngine:
    """Use it as a context manager; it has the base image."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            missing("a second Docker engine needs root")
        for program in ("dockerd", "unshare"):
            if shutil.which(program) is None:
                missing(f"there is no {program} here to start a second engine with")
        # Paths of sockets are short.
        self._folder = Path(tempfile.mkdtemp(prefix="cairn-engine-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._folder / 'docker.sock'}"

    def __enter__(self) -> SecondEngine:
        try:
            self.start()
            with subprocess.Popen(["docker", "save", BASE_IMAGE], stdout=subprocess.PIPE) as saving:
                loaded = subprocess.run(
                    ["docker", "--host", self.url, "load", "--quiet"], stdin=saving.stdout, capture_output=True
                )
            if saving.returncode or loaded.returncode:
                missing(f"the base image could not be brought into a second engine: {loaded.stderr.decode()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._process is None:
                self.start()
            for id in self.docker("ps", "--all", "--quiet").split():
                self.docker("rm", "--force", id)
        finally:
            if self._process is not None:
                self._process.terminate()
                self._process.wait(60)
            subprocess.run(["umount", self._folder / "data"], check=False, capture_output=True)
            shutil.rmtree(self._folder)

    def start(self, *, live_restore: bool = False) -> None:
        """Return when it answers. Of containers that still run from before, it keeps all or ends all."""
        folder = self._folder
        # Of a containerd that died with its engine: while nobody has waited for it, its number looks alive.
        (folder / "exec" / "containerd" / "containerd.pid").unlink(missing_ok=True)
        (folder / "pid").unlink(missing_ok=True)
        places = (f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid")
        keep = ("--live-restore",) if live_restore else ()
        with (folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*PROGRAM, *places, f"--host={self.url}", *OPTIONS, *keep], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.docker("version")
                return
            time.sleep(0.1)
        message = f"the second engine did not start:\n{(folder / 'log').read_text()[-2000:]}"
        raise RuntimeError(message)

    def kill(self) -> None:
        """With SIGKILL, and its containerd with it; what runs in its containers goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)
        self._process = None

    def docker(self, *arguments: str) -> str:
        """What Docker's command line prints about this engine."""
        return subprocess.run(
            ["docker", "--host", self.url, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()
