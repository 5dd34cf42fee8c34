"""``cairn key``: keys of the gateway on this host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.api_keys import ApiKeys, ensure_local_key
from tests.command_line.conftest import run_alone


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of a gateway, where the settings name it."""
    home = tmp_path / "home"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAIRN_HOME", str(home))
    ensure_local_key(home)
    return home


def test_a_key_from_its_making_to_its_end(home: Path) -> None:
    """It is printed once, alone on standard output, stands in the list, and is good until it is revoked."""
    key = run_alone("key", "add", "ci").stdout.strip()
    assert ApiKeys(home).verify(key) == "ci"
    assert json.loads(run_alone("key", "list", "--json").stdout) == ["ci", "local"]
    assert run_alone("key", "revoke", "ci").exit_code == 0
    assert ApiKeys(home).verify(key) is None
    assert json.loads(run_alone("key", "list", "--json").stdout) == ["local"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "told"),
    [
        (("add", "local"), 1, "There is a key named local already."),
        (("add", "no name"), 1, "cannot name a key"),
        (("revoke", "ci"), 4, "There is no key named ci."),
    ],
)
def test_what_cannot_be(home: Path, arguments: tuple[str, ...], exit_code: int, told: str) -> None:
    """A name that is taken, that is none, or that nobody has: said in a line, and nothing changes."""
    before = (home / "keys.json").read_bytes()
    result = run_alone("key", *arguments)
    assert (result.exit_code, before) == (exit_code, (home / "keys.json").read_bytes())
    assert told in " ".join(result.stderr.split())


def test_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no gateway lives, that is said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAIRN_HOME", str(tmp_path / "nowhere"))
    result = run_alone("key", "list")
    assert result.exit_code == 4
    assert "There is no home of Cairn" in result.stderr
