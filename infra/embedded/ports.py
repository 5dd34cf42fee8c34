"""TCP ports on this host: which one is free, whether a given one is, and holding one so that nobody else gets it.

A port that was found free is anybody's again until a server listens there, and whenever the server is away: on a busy
host some program is given it sooner or later. So it is held: a socket that is bound, and does not listen, keeps the
kernel from giving its port away, while a server that sets SO_REUSEADDR, as servers do, listens there all the same.
"""

from __future__ import annotations

import socket
from pathlib import Path


def is_port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now (one that has just stopped does not count as there)."""
    try:
        hold_port(port, host).close()
    except OSError:
        return False
    return True


def hold_port(port: int = 0, host: str = "127.0.0.1") -> socket.socket:
    """Hold a port, 0 being any that is free, for as long as the socket is open; ``port_of`` tells which. Raises
    ``OSError`` where somebody listens there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host, port))
    except BaseException:
        held.close()
        raise
    return held


def port_of(held: socket.socket) -> int:
    return int(held.getsockname()[1])


def hold_remembered_port(path: Path, host: str = "127.0.0.1") -> socket.socket:
    """Hold the port that ``path`` holds if it is free, else a free one, kept there for the next time."""
    try:
        port = int(path.read_text())
    except (FileNotFoundError, ValueError):
        port = 0
    try:
        held = hold_port(port, host)
    except OSError:
        held = hold_port(0, host)
    if port_of(held) != port:
        path.write_text(str(port_of(held)))
    return held
