"""The example system's own tests, which its planted bug passes: only a killed worker shows it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integration import git_examples
from tests.job_scheduler import own_tests, patched_line, repository


@pytest.mark.parametrize("broken", [False, True])
def test_its_own_tests_pass(tmp_path: Path, broken: bool) -> None:
    """With and without the bug, by plain python."""
    done = own_tests(repository(tmp_path / "repository", broken=broken), sys.executable)
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stderr


def test_one_line_is_the_difference(tmp_path: Path) -> None:
    """The bug is a line that is not there, and nothing else."""
    made = repository(tmp_path / "repository", broken=True)
    changed = git_examples.git(made, "diff", "--numstat", "HEAD~1")
    assert changed.split() == ["0", "1", "scheduler/api.py"]
    assert "sweep" in patched_line()
