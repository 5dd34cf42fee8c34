"""What the tests with an engine have in common."""

from tests.docker.ground import ground
from tests.engine import engine

__all__ = ["engine", "ground"]  # fixtures
