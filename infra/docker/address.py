"""Where a Docker engine answers, found without asking it: cheap enough for every start of a process."""

from __future__ import annotations

import os
from pathlib import Path

# Docker's own default, and where a rootless engine of this user listens.
SOCKETS = ("/var/run/docker.sock", f"{os.environ.get('XDG_RUNTIME_DIR') or f'/run/user/{os.getuid()}'}/docker.sock")


def address() -> str:
    """Where an engine should answer: ``$DOCKER_HOST``, else the first socket that is there, else the usual one."""
    return os.environ.get("DOCKER_HOST", "") or "unix://" + next(
        (path for path in SOCKETS if _is_there(path)), SOCKETS[0]
    )


def may_answer() -> bool:
    """Whether there is something to ask: ``$DOCKER_HOST``, or a socket. An engine may still be down."""
    return bool(os.environ.get("DOCKER_HOST")) or any(_is_there(path) for path in SOCKETS)


def _is_there(path: str) -> bool:
    try:
        return Path(path).exists()
    except PermissionError:
        return False
