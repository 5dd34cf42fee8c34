"""What the tests with an engine have in common."""

from tests.docker.ground import ground  # noqa: F401  # for every test of a fault
from tests.engine import engine  # noqa: F401  # a fixture for every test here
