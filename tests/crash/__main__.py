"""``make crash-matrix``: every point of the log × before and after × every victim, over real processes.

``SAMPLE=n`` takes so many of the points, chosen by ``SEED=s``; ``VICTIMS=a,b`` other victims than all of them;
``GENTLY=1`` asks them to stop in place of SIGKILL; ``WORKERS=n`` lets so many stacks work side by side.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from infra.faults.laboratory import VICTIMS, Laboratory, Point
from infra.faults.matrix import Verdict, disturb, points, sampled
from tests.crash.workload import SPECIFICATION, laboratory


async def matrix(directory: Path, choose: Callable[[int], list[Point]], workers: int) -> list[Verdict]:
    """Measure the undisturbed task, then divide the points, which are chosen knowing their number, among stacks."""
    labs = [laboratory(directory / str(number)) for number in range(workers)]
    try:
        await asyncio.gather(*(lab.start() for lab in labs))
        reference = await labs[0].undisturbed(SPECIFICATION)
        chosen = choose(reference.certain_appends)
        print(
            f"{reference.certain_appends} appends, {len(reference.account.calls)} calls, {reference.seconds:.1f} s "
            f"undisturbed; {len(chosen)} points",
            flush=True,
        )
        waiting = iter(chosen)
        found = await asyncio.gather(*(_work(lab, waiting) for lab in labs))
        return [verdict for verdicts in found for verdict in verdicts]
    finally:
        await asyncio.gather(*(lab.stop() for lab in labs))


async def _work(lab: Laboratory, waiting: Iterator[Point]) -> list[Verdict]:
    """One stack: its own undisturbed task, then point after point as long as there are some."""
    reference = await lab.undisturbed(SPECIFICATION)
    verdicts = []
    for point in waiting:
        async for verdict in disturb(lab, SPECIFICATION, [point], reference.account.differences):
            verdicts.append(verdict)
            _tell(verdict)
    return verdicts


def _tell(verdict: Verdict) -> None:
    struck = verdict.trial.struck
    where = f"{struck.service} appends to {struck.subject}" if struck is not None else "never reached"
    result = "FAILED" if verdict.problems else "ok"
    print(f"{result:>6}  {verdict.trial.seconds:5.1f} s  {verdict.point}: {where}", flush=True)
    for problem in verdict.problems[:10]:
        print(f"        {problem[:600]}", flush=True)


def main() -> int:
    victims = tuple(filter(None, os.environ.get("VICTIMS", "").split(","))) or VICTIMS
    sample, seed = int(os.environ.get("SAMPLE", "0")), int(os.environ.get("SEED", "1"))
    gently = bool(os.environ.get("GENTLY"))
    workers = int(os.environ.get("WORKERS", "1"))
    logging.getLogger("cairn").setLevel(logging.ERROR)  # That connections break is what this is about.
    directory = Path(tempfile.mkdtemp(prefix="cairn-crash-"))
    began = time.monotonic()

    def choose(appends: int) -> list[Point]:
        every = points(appends, victims, gently=gently)
        return sampled(every, sample or len(every), seed)

    verdicts = asyncio.run(matrix(directory, choose, workers))
    failed = [verdict for verdict in verdicts if verdict.problems]
    print(f"{len(verdicts)} points, {len(failed)} failures, seed {seed}, {time.monotonic() - began:.0f} s")
    if failed:
        print(f"the logs of the services are in {directory}")
    else:
        shutil.rmtree(directory)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
