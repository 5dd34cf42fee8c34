"""``python -m tests.simulation [--seeds N] [--first N] [--seed N] [--processes N]``: simulate, and say what failed.

One seed prints its trace; many are shared among processes, and every seed that fails is named with how to see it
again. Exit code 1 where a seed failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

from tests.simulation.simulation import Result, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--seed", type=int, help="this one only, with its trace")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one for each core")
    given = parser.parse_args()
    if given.seed is not None:
        return _one(given.seed)
    return _many(range(given.first, given.first + given.seeds), given.processes)


def _one(seed: int) -> int:
    result = simulate(seed)
    for time_seconds, *what in result.trace:
        print(f"{time_seconds:12.6f}", *what)
    print(f"seed {seed}: {result.steps} steps, {result.seconds:.1f} virtual seconds, trace {result.digest[:16]}")
    again = simulate(seed)
    if again.digest != result.digest:
        print(f"NOT REPEATABLE: the second run has the trace {again.digest[:16]}")
    for violation in result.violations:
        print("VIOLATION", violation)
    return 1 if result.violations or again.digest != result.digest else 0


def _many(seeds: range, processes: int) -> int:
    began = time.monotonic()
    failed: list[Result] = []
    steps = 0
    with multiprocessing.Pool(processes) as pool:
        for done, result in enumerate(pool.imap_unordered(_summary, seeds, chunksize=8), 1):
            steps += result.steps
            if result.violations:
                failed.append(result)
                print(f"seed {result.seed} FAILED: {result.violations[0]}", flush=True)
            if done % 1000 == 0:
                print(f"{done} seeds, {len(failed)} failed", flush=True)
    minutes = (time.monotonic() - began) / 60
    rate = f"{len(seeds) / minutes:.0f} seeds a minute, {steps / len(seeds):.0f} steps a seed"
    print(f"{len(seeds)} seeds in {minutes * 60:.1f} s ({rate}), {len(failed)} failed")
    for result in sorted(failed, key=lambda result: result.seed)[:10]:
        print(f"  make simulate SEED={result.seed}")
    return 1 if failed else 0


def _summary(seed: int) -> Result:
    result = simulate(seed)
    result.trace = []
    return result


if __name__ == "__main__":
    sys.exit(main())
