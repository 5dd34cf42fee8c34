"""Leads from a port inside a container without a network to the Unix socket of the proxy outside.

Programs know how to use a proxy at an address; the socket is in the environment's directory. A thread for each
direction of each connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading

from services.environment_manager.shim import RELAY_PORT

BACKLOG = 64
PIECE_BYTES = 65_536


def relay(path: str) -> None:
    """Serve until the process ends."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", RELAY_PORT))
    listener.listen(BACKLOG)
    while True:
        inside, _ = listener.accept()
        threading.Thread(target=_lead, args=(inside, path), daemon=True).start()


def _lead(inside: socket.socket, path: str) -> None:
    outside = socket.socket(socket.AF_UNIX)
    try:
        # The address of a socket holds 107 bytes, a path may be longer.
        folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
        try:
            outside.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        finally:
            os.close(folder)
        back = threading.Thread(target=_copy, args=(outside, inside), daemon=True)
        back.start()
        _copy(inside, outside)
        back.join()
    except OSError:
        with contextlib.suppress(OSError):
            inside.sendall(b"HTTP/1.1 503 The proxy of this environment does not answer\r\nContent-Length: 0\r\n\r\n")
    finally:
        inside.close()
        outside.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE_BYTES):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
