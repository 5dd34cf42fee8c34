"""Which services a changed file concerns."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.embedded.reload import concerned
from infra.embedded.stack import SERVICES

CODE = Path("/code")


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("services/agent_runner/driver.py", {"agent-runner"}),
        ("services/environment_manager/adapters/git.py", {"environment-manager"}),
        ("projections/task.py", {"projector", "gateway"}),
        ("projections/sql/schema.sql", {"projector", "gateway"}),
        ("events/run.py", set(SERVICES)),
        ("infra/entities.py", set(SERVICES)),
        ("services/__init__.py", set(SERVICES)),
        ("services/command_line/tasks.py", set()),
        ("infra/embedded/stack.py", set()),
        ("services/agent_runner/__pycache__/driver.cpython-311.pyc", set()),
        ("tests/unit/test_reload.py", set()),
        ("README.md", set()),
    ],
)
def test_file_concerns(file: str, names: set[str]) -> None:
    """A service's own code concerns it alone, shared code everyone that uses it, other files nobody."""
    assert concerned(CODE / file, SERVICES, CODE) == names


def test_file_elsewhere() -> None:
    """What does not belong to the code concerns nobody."""
    assert concerned(Path("/other/events/run.py"), SERVICES, CODE) == frozenset()
