"""What the tests with an engine have in common."""

from pathlib import Path

import pytest

from tests.docker.ground import ground
from tests.engine import engine

__all__ = ["engine", "ground"]  # fixtures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An engine that has much to do takes its time."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(180))
