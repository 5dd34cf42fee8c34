"""What a process prints, until a client of the gateway has it: lines a second, and how late each line comes.

A shell call of a scripted agent prints lines that carry their own time (``printer``); the client reads the run's
output as server-sent events and takes the time when a piece arrives. Both read the same monotonic clock. Every line
must come, once and in order, or the measurement fails.
"""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from events.names import run_id
from services.command_line.client import BASE, Gateway
from tests.bench import printer, worker
from tests.bench.table import Row, percentile
from tests.bench.whole_stack import SUBMIT, Turns, submit, whole_stack

SECONDS = 6
RATES = (1_000, 10_000)
FLAT_OUT_LINES = 500_000
PATIENCE_SECONDS = 60.0
RECEIVED_BYTES = 1 << 20


class Piece(msgspec.Struct):
    call_id: str
    offset: int
    text: str


class Frame(msgspec.Struct):
    at: float
    id: str
    event: str
    data: bytes


def _agent(gate: Path, lines: int, rate: int) -> Turns:
    command = f"{sys.executable} -I {printer.__file__} {gate} {lines} {rate}"
    return [{"calls": [{"tool": "shell", "arguments": {"command": command}}]}, SUBMIT]


class Client:
    """Reads the output of a run as a browser would: where the stream ends, it connects again after its last id."""

    def __init__(self, gateway: Gateway, key: str, run: str) -> None:
        self.connections = 0
        self._address = urlsplit(gateway.url).netloc
        self._headers = {"Authorization": f"Bearer {key}"}
        self._path = f"{BASE}/runs/{run}/output/stream"
        self._last_id = ""

    def frames(self) -> Iterator[Frame]:
        """All of them, to the event ``end``."""
        while True:
            for frame in self._connection():
                self._last_id = frame.id or self._last_id
                yield frame
                if frame.event == "end":
                    return

    def _connection(self) -> Iterator[Frame]:
        self.connections += 1
        connection = http.client.HTTPConnection(self._address, timeout=PATIENCE_SECONDS)
        headers = {**self._headers, **({"Last-Event-ID": self._last_id} if self._last_id else {})}
        connection.request("GET", self._path, headers=headers)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{self._path}: {response.read().decode()}")
        received = b""
        while data := response.read1(RECEIVED_BYTES):
            at = time.monotonic_ns() / 1e9
            *parts, received = (received + data).split(b"\n\n")
            for part in parts:
                yield _frame(at, part)
        connection.close()


def _frame(at: float, part: bytes) -> Frame:
    fields = dict(line.partition(b": ")[::2] for line in part.split(b"\n"))
    return Frame(at, fields.get(b"id", b"").decode(), fields.get(b"event", b"").decode(), fields.get(b"data", b""))


def _printed(gateway: Gateway, key: str, agent: str, gate: Path) -> tuple[list[Frame], int]:
    """Have an agent's process print; the frames that came, over how many connections."""
    run = run_id(submit(gateway, agent), "development", 1)
    _until_requested(gateway, run)
    client = Client(gateway, key, run)
    frames = client.frames()
    found = [next(frames)]
    gate.touch()
    found += frames
    return found, client.connections


def _until_requested(gateway: Gateway, run: str) -> None:
    for event in gateway.stream("/events/stream", last_id="0"):
        if event.data and any(said.get("run_id") == run for said in event.data["events"]):
            return


def _lines(frames: list[Frame]) -> list[tuple[float, float]]:
    """When each line was printed and when it came. Raises ``RuntimeError`` where one is missing or not in its place."""
    rest, reached, lines = "", 0, []
    for frame in frames:
        if frame.event == "truncated":
            raise RuntimeError(f"output was lost: {frame.data.decode()}")
        if frame.event or not frame.data:
            continue
        piece = msgspec.json.decode(frame.data, type=Piece)
        if piece.offset != reached:
            raise RuntimeError(f"a piece at {piece.offset} came where {reached} was due")
        reached += len(piece.text.encode())
        *whole, rest = (rest + piece.text).split("\n")
        for line in whole:
            printed_at, number, _ = line.split(" ", 2)
            if int(number) != len(lines):
                raise RuntimeError(f"line {number} came where {len(lines)} was due")
            lines.append((int(printed_at) / 1e9, frame.at))
    return lines


def _row(what: str, expected: int, frames: list[Frame], connections: int, target: str) -> Row:
    lines = _lines(frames)
    if len(lines) != expected:
        raise RuntimeError(f"{len(lines)} of {expected} lines came")
    delays = [came - printed for printed, came in lines]
    rate = expected / (lines[-1][1] - lines[0][0])
    printing = expected / (lines[-1][0] - lines[0][0])
    return Row(
        what=what,
        sync="always",
        value=f"{rate:,.0f} lines/s of {printing:,.0f} printed, late by p50 {percentile(delays, 0.5) * 1000:.0f} ms, "
        f"p99 {percentile(delays, 0.99) * 1000:.0f} ms; {connections} connection{'s' if connections > 1 else ''}",
        target=target,
    )


def run() -> list[Row]:
    with worker.directory() as home:
        flat_out = (FLAT_OUT_LINES, 0)
        cases = {f"print-{rate}": (rate * SECONDS, rate) for rate in RATES} | {"print-flat-out": flat_out}
        agents = {name: _agent(home / f"{name}.gate", *case) for name, case in cases.items()}
        rows = []
        with whole_stack(home, agents) as (gateway, _):
            key = (home / ".cairn" / "key").read_text(encoding="utf-8").strip()
            for name, (lines, rate) in cases.items():
                frames, connections = _printed(gateway, key, name, home / f"{name}.gate")
                what = f"output at {rate:,} lines/s" if rate else f"output flat out, {lines:,} lines"
                target = "p99 < 250 ms" if rate == max(RATES) else ""
                rows.append(_row(f"{what} of {printer.LINE_BYTES} bytes", lines, frames, connections, target))
        return rows
