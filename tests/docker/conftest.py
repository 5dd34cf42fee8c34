from tests.engine import engine  # noqa: F401  # a fixture for every test here
