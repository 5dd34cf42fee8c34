"""A process that prints: ``python printer.py GATE LINES RATE``. Waits for the file ``GATE``, then prints lines of 100
bytes, each with its own time and number, ``RATE`` a second, 0 for as fast as it can."""

import sys
import time
from pathlib import Path

LINE_BYTES = 100


def main(gate: Path, lines: int, rate: int) -> None:
    while not gate.exists():
        time.sleep(0.01)
    began = time.monotonic_ns()
    for number in range(lines):
        due = began + number * 1_000_000_000 // rate if rate else 0
        wait = due - time.monotonic_ns()
        if wait > 0:
            sys.stdout.flush()
            time.sleep(wait / 1e9)
        sys.stdout.write(f"{time.monotonic_ns()} {number} ".ljust(LINE_BYTES - 1, "x") + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
