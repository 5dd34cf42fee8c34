"""Runs every measurement and writes the table: ``python -m tests.bench [NAME …] [--output FILE]``."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from pathlib import Path

from tests.bench.table import machine, markdown

MEASUREMENTS = {
    "append": "Appending to the log",
    "agent_loop": "Agent loop",
    "submit": "From submission to an agent at work",
    "projection": "Projection",
    "output": "Output of a process to a client",
    "recovery": "A runner killed in the middle",
    "bundles": "Checkpoints for another host",
    "startup": "Start-up with a long history",
    "containers": "Environments in containers",
    "compose": "A composed system",
    "faults": "Faults in containers",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(MEASUREMENTS)}; all by default")
    parser.add_argument("--output", type=Path, default=Path("build/bench.md"), help="where the table is written, too")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - MEASUREMENTS.keys()
    if unknown:
        parser.error(f"there is no measurement {sorted(unknown)[0]!r}")
    # So that whoever ends a benchmark leaves no process of it behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parts = ["# Benchmarks\n", machine()]
    for name in arguments.names or MEASUREMENTS:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        parts.append(markdown(MEASUREMENTS[name], importlib.import_module(f"tests.bench.{name}").run()))
        print(parts[-1], flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text("\n".join(parts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
