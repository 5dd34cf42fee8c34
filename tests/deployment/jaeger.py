"""Jaeger's program, built from its Go module: there is no other way to one where no image can be pulled.

``python -m tests.deployment.jaeger`` builds it where a Go toolchain and the module proxy are at hand, into
``build/jaeger``; it takes minutes. The module's own ``go.sum`` vouches for everything that is downloaded, so it is
built inside the module as it was published. The pages of its UI are not in the module; its receiver and its query API
are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODULE = "github.com/jaegertracing/jaeger"
# The release of both lines, of which `cmd/jaeger` is Jaeger 2.13.
VERSION = "v1.76.0"
PROGRAM = Path(__file__).parents[2] / "build" / f"jaeger-{VERSION}"


def go() -> str:
    """A Go toolchain, empty where there is none."""
    return shutil.which("go") or next((path for path in ("/usr/local/go/bin/go",) if Path(path).exists()), "")


def build() -> None:
    """Build it where it is not there yet. Raises ``CalledProcessError``."""
    if PROGRAM.exists():
        return
    PROGRAM.parent.mkdir(exist_ok=True)
    flags = f"{os.environ.get('GOFLAGS', '')} -buildvcs=false".strip()
    environment = {**os.environ, "GOFLAGS": flags, "CGO_ENABLED": "0"}
    described = subprocess.run(
        [go(), "mod", "download", "-json", f"{MODULE}@{VERSION}"],
        cwd="/",
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "jaeger"
        shutil.copytree(json.loads(described.stdout)["Dir"], source, copy_function=shutil.copyfile)
        for path in (source, *source.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        fresh = PROGRAM.with_name(f"{PROGRAM.name}.{os.getpid()}")
        command = [go(), "build", "-trimpath", "-ldflags=-s -w", "-o", str(fresh), "./cmd/jaeger"]
        subprocess.run(command, cwd=source, env=environment, check=True)
    fresh.replace(PROGRAM)


if __name__ == "__main__":
    if not go():
        sys.exit("there is no Go toolchain: Jaeger is not built")
    build()
    print(PROGRAM)
