"""Rows of figures, the machine that they were measured on, and both as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. ``sync`` is how the server writes to disk; ``ratio`` is to the floor that ``floor`` names."""

    what: str
    sync: str
    value: str
    ratio: str = ""
    floor: str = ""
    target: str = ""


def markdown(title: str, rows: Sequence[Row]) -> str:
    lines = [
        f"## {title}",
        "",
        "| what | sync | figure | ratio | floor | target |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [f"| {row.what} | {row.sync} | {row.value} | {row.ratio} | {row.floor} | {row.target} |" for row in rows]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """The machine in a few lines: what a figure means depends on it."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {os.cpu_count()} cores ({model}), {memory_gib:.0f} GiB, "
        f"kernel {platform.release()}, Python {platform.python_version()}.\n"
    )


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
