"""The password of PostgreSQL comes from its reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from events.errors import Permanent
from infra.postgres import sign_in_url
from infra.settings import Postgres


def test_the_password_stands_in_the_url_where_it_is_used(tmp_path: Path) -> None:
    """Signs that mean something in a URL are escaped; what stood there before is replaced; the rest stays."""
    secret = tmp_path / "password"
    secret.write_text("p@ss/word\n")
    found = sign_in_url(Postgres(url="postgresql://cairn:old@db:5432/cairn?ssl=require", password=f"file:{secret}"))
    assert found == "postgresql://cairn:p%40ss%2Fword@db:5432/cairn?ssl=require"


def test_without_a_reference_the_url_stays() -> None:
    """A URL that has all of it is used as it is."""
    assert sign_in_url(Postgres(url="postgresql://cairn@/postgres?host=%2Ftmp")).endswith("?host=%2Ftmp")


def test_a_password_that_cannot_be_had_is_an_error() -> None:
    """The reference is named."""
    with pytest.raises(Permanent, match="/nowhere/password"):
        sign_in_url(Postgres(url="postgresql://cairn@db/cairn", password="file:/nowhere/password"))
