"""A short soak in every build: `make soak MINUTES=…` takes longer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.soak import soak, tell

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "120"))
SEED = int(os.environ.get("SEED", "1"))


async def test_whatever_is_killed_every_task_ends_rightly(tmp_path: Path) -> None:
    """Random kills of services, servers and whole workers: no task is lost, nothing is done twice, the read models
    are what the log says."""
    report = await soak(tmp_path, SOAK_SECONDS, SEED)
    tell(report, SEED)
    assert not report.problems
    assert report.tasks > 1
