"""The frames of the NATS protocol, as far as a proxy has to tell them apart.

https://docs.nats.io/reference/reference-protocols/nats-protocol. A frame is a line, followed by as many bytes as it
announces where it carries a message. Bytes go in as they come from a socket, whole frames come out unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

# How many words the line of a frame with a message has where it names no reply subject, and which word that would be.
_CARRIERS = {b"PUB": (3, 2), b"HPUB": (4, 2), b"MSG": (4, 3), b"HMSG": (5, 3)}


class Frame(msgspec.Struct, frozen=True):
    """``raw`` is all of it. ``subject``, ``reply`` and ``payload`` (headers included) are empty where it has none."""

    raw: bytes
    operation: bytes
    subject: bytes = b""
    reply: bytes = b""
    payload: bytes = b""


class Frames:
    """One direction of one connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with ``data``."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n")) >= 0:
            words = bytes(self._buffer[:end]).split()
            operation = words[0].upper() if words else b""
            carrier = _CARRIERS.get(operation)
            if carrier is None:
                yield Frame(self._take(end + 2), operation)
                continue
            size = int(words[-1])
            if len(self._buffer) < end + 2 + size + 2:
                return
            raw = self._take(end + 2 + size + 2)
            length, place = carrier
            reply = words[place] if len(words) > length else b""
            yield Frame(raw, operation, words[1], reply, raw[end + 2 : -2])

    def _take(self, length: int) -> bytes:
        raw = bytes(self._buffer[:length])
        del self._buffer[:length]
        return raw
