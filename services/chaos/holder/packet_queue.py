"""Packets held back by a program: the kernel's NFQUEUE over netlink, with the standard library only.

The kernel hands over each packet's number (not its content); we answer with a verdict when its time has come. One
answer accepts all packets up to a number, so order is kept, with jitter too. The queue is opened fail-open, and the
rule that fills it has a bypass: whatever happens to this program, packets pass. What it still holds when it is killed
is lost, as on a network. About 7,000 packets a second on one core.

Protocol: linux/netfilter/nfnetlink_queue.h, linux/netlink.h.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import socket
import struct
import threading
import time
from collections import deque

from services.chaos.holder.order import Refused

_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_NO_ENOBUFS = 5
_SO_RCVBUFFORCE = 33
_QUEUE = 3 << 8
_PACKET, _VERDICT, _CONFIG, _VERDICT_BATCH = _QUEUE | 0, _QUEUE | 1, _QUEUE | 2, _QUEUE | 3
_ERROR = 2
_REQUEST, _ACKNOWLEDGE = 1, 4
_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("=HH")
_PACKET_HEADER, _VERDICT_HEADER = 1, 2
_CONFIG_COMMAND, _CONFIG_PARAMETERS, _CONFIG_LENGTH, _CONFIG_MASK, _CONFIG_FLAGS = 1, 2, 3, 4, 5
_BIND = 1
_COPY_META = 1
_FAIL_OPEN = 1
_ACCEPT = 1
_LENGTH = 100_000
_BUFFER_BYTES = 8 << 20
_READ_BYTES = 1 << 16


class PacketQueue:
    """Queue ``number`` of this network namespace, each packet held for ``delay_seconds`` ± ``jitter_seconds``."""

    def __init__(self, number: int, delay_seconds: float, jitter_seconds: float) -> None:
        self._number = number
        self._delay = delay_seconds
        self._jitter = jitter_seconds
        self._held: deque[tuple[float, int]] = deque()
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)

    def open(self) -> None:
        """Begin. Raises ``Refused`` where the kernel has no queue, or another program holds this one."""
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
        with contextlib.suppress(OSError):  # A smaller buffer holds fewer packets at once, and that is all.
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.bind((0, 0))
        self._configure((_CONFIG_COMMAND, struct.pack("!BBH", _BIND, 0, socket.AF_UNSPEC)))
        self._configure((_CONFIG_PARAMETERS, struct.pack("!IB", 0, _COPY_META)))
        self._configure((_CONFIG_LENGTH, struct.pack("!I", _LENGTH)))
        flag = struct.pack("!I", _FAIL_OPEN)
        self._configure((_CONFIG_FLAGS, flag), (_CONFIG_MASK, flag))
        self._socket.setblocking(False)
        self._thread.start()

    def close(self) -> None:
        """Let everything through that is held, and end. Closing first would lose it."""
        if self._thread.is_alive():
            os.write(self._woken, b"x")
            self._thread.join()
        self._socket.close()
        for end in (self._wake, self._woken):
            with contextlib.suppress(OSError):
                os.close(end)

    def _configure(self, *attributes: tuple[int, bytes]) -> None:
        joined = b"".join(_attribute(kind, value) for kind, value in attributes)
        self._send(_CONFIG, joined, _REQUEST | _ACKNOWLEDGE)
        answer = self._socket.recv(_READ_BYTES)
        _, kind, _, _, _ = _HEADER.unpack_from(answer)
        code = -struct.unpack_from("=i", answer, _HEADER.size)[0] if kind == _ERROR else 0
        if code:
            taken = " (another program holds it)" if code in (errno.EBUSY, errno.EPERM) else ""
            message = f"packet queue {self._number}: {os.strerror(code)}{taken}"
            raise Refused(message)

    def _send(self, kind: int, attributes: bytes, flags: int = _REQUEST) -> None:
        body = _FAMILY.pack(socket.AF_UNSPEC, 0, self._number) + attributes
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body)

    def _serve(self) -> None:
        last = 0.0
        while True:
            wait = max(0.0, self._held[0][0] - time.monotonic()) if self._held else None
            ready, _, _ = select.select([self._socket.fileno(), self._wake], [], [], wait)
            now = time.monotonic()
            if self._socket.fileno() in ready:
                for number in self._received():
                    due = now + self._delay
                    if self._jitter:
                        due += random.uniform(-self._jitter, self._jitter)
                    last = max(last, due)
                    self._held.append((last, number))
            if self._wake in ready:
                now = float("inf")
            self._release(now)
            if now == float("inf"):
                return

    def _received(self) -> list[int]:
        numbers: list[int] = []
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return numbers
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if kind == _PACKET:
                    numbers.append(_packet_number(data, at + _HEADER.size + _FAMILY.size, at + length))
                at += (length + 3) & ~3 or len(data)

    def _release(self, now: float) -> None:
        number = None
        while self._held and self._held[0][0] <= now:
            number = self._held.popleft()[1]
        if number is not None:
            self._send(_VERDICT_BATCH, _attribute(_VERDICT_HEADER, struct.pack("!II", _ACCEPT, number)))


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _packet_number(data: bytes, at: int, end: int) -> int:
    """The number that the kernel gave a packet: its header is the first attribute."""
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if kind == _PACKET_HEADER:
            return int(struct.unpack_from("!I", data, at + _ATTRIBUTE.size)[0])
        at += (length + 3) & ~3 or end
    return 0
