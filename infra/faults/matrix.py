"""The crash matrix: a task disturbed at one point after another, and compared with one that was left alone."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from events.task import TaskSpecification
from infra.faults.account import Account
from infra.faults.laboratory import HANDLER, Laboratory, Point, Trial
from infra.faults.log_proxy import When

WHENS: tuple[When, When] = ("before", "after")
# A crash costs the start of a process and, at worst, a lease.
TRIAL_SECONDS = 120.0

Differences = Callable[[Account], list[str]]


class Verdict(msgspec.Struct, frozen=True):
    """What became of the task that was disturbed at ``point``: nothing to complain of where ``problems`` is empty."""

    point: Point
    trial: Trial
    problems: tuple[str, ...]


def points(appends: int, victims: Sequence[str] = (HANDLER,), *, gently: bool = False) -> list[Point]:
    """Every point of a log of so many appends, for each victim."""
    numbers = range(1, appends + 1)
    return [Point(number, when, victim, gently) for victim in victims for number in numbers for when in WHENS]


def sampled(points: Sequence[Point], count: int, seed: int) -> list[Point]:
    """So many of them, chosen by the seed, in their order; all where there are no more."""
    return list(points) if count >= len(points) else sorted(random.Random(seed).sample(points, count))


async def disturb(
    laboratory: Laboratory,
    specification: TaskSpecification,
    chosen: Sequence[Point],
    differences: Differences,
    *,
    seconds: float = TRIAL_SECONDS,
) -> AsyncIterator[Verdict]:
    """Try every point, one after another. A point that the log never gets to is a problem too."""
    for point in chosen:
        trial = await laboratory.disturbed(
            specification, point, until=lambda account: account.settled and not differences(account), seconds=seconds
        )
        problems = differences(trial.account)
        if trial.struck is None:
            problems = [f"the log has no append {point.number}, it ends with {len(trial.appends)}", *problems]
        yield Verdict(point, trial, tuple(problems))
