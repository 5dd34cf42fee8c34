"""TCP ports on this host: which one is free, and whether a given one is."""

from __future__ import annotations

import socket
from pathlib import Path


def is_port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now (one that has just stopped does not count as there)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def remembered_port(path: Path, host: str = "127.0.0.1") -> int:
    """The port that ``path`` holds if it is free, else a free one, kept there for the next time."""
    try:
        port = int(path.read_text())
    except (FileNotFoundError, ValueError):
        port = 0
    if port and is_port_free(port, host):
        return port
    port = free_port(host)
    path.write_text(str(port))
    return port
