"""What a test cannot do without."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(why: str, variable: str = "CAIRN_TEST_ENGINE") -> NoReturn:
    """Skip with the reason; with ``variable`` set to ``required``, as in CI, fail instead."""
    if os.environ.get(variable) == "required":
        pytest.fail(why)
    pytest.skip(why)
