"""The frames of the protocol come out whole and unchanged, however they come in."""

from __future__ import annotations

import pytest

from infra.faults.wire import Frame, Frames

STREAM = (
    b'CONNECT {"verbose":false}\r\nPING\r\n'
    b"PUB evt.a.task.t-1 _INBOX.1.2 5\r\nhello\r\n"
    b"PUB out.a.run 2\r\n\r\n\r\n"
    b"HPUB evt.a.run.r-1 _INBOX.1.3 12 16\r\nNATS/1.0\r\n\r\nbody\r\n"
    b"MSG _INBOX.1.2 7 2\r\n{}\r\n"
    b"MSG cmd.a.x 7 $JS.ACK.1 2\r\n{}\r\n"
    b"HMSG cmd.a.y 7 $JS.ACK.2 12 14\r\nNATS/1.0\r\n\r\n{}\r\n"
)


@pytest.mark.parametrize("piece", [1, 2, 7, len(STREAM)])
def test_frames_are_whole_and_unchanged(piece: int) -> None:
    """Subject, reply and payload are found, and all frames together are what came in."""
    frames = Frames()
    found: list[Frame] = []
    for start in range(0, len(STREAM), piece):
        found += frames.feed(STREAM[start : start + piece])
    assert b"".join(frame.raw for frame in found) == STREAM
    assert [(frame.operation, frame.subject, frame.reply, frame.payload) for frame in found[2:]] == [
        (b"PUB", b"evt.a.task.t-1", b"_INBOX.1.2", b"hello"),
        (b"PUB", b"out.a.run", b"", b"\r\n"),
        (b"HPUB", b"evt.a.run.r-1", b"_INBOX.1.3", b"NATS/1.0\r\n\r\nbody"),
        (b"MSG", b"_INBOX.1.2", b"", b"{}"),
        (b"MSG", b"cmd.a.x", b"$JS.ACK.1", b"{}"),
        (b"HMSG", b"cmd.a.y", b"$JS.ACK.2", b"NATS/1.0\r\n\r\n{}"),
    ]
