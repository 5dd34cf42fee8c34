"""API keys: made, kept, verified, revoked; readable by their owner only."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from infra.api_keys import (
    ApiKeys,
    KeysUnreadable,
    add,
    digest_of_key,
    ensure_local_key,
    let_in,
    load,
    make_key,
    revoke,
)


def test_the_local_key_is_made_once_and_private(tmp_path: Path) -> None:
    """Asking again gives the same key, its file and the digests are for their owner only."""
    home = tmp_path / "home"
    key = ensure_local_key(home)
    assert key == ensure_local_key(home)
    assert key == (home / "key").read_text().strip()
    assert {"local": digest_of_key(key)} == load(home)
    assert key not in (home / "keys.json").read_text()
    for name in ("key", "keys.json"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600


def test_many_at_once_make_one_key(tmp_path: Path) -> None:
    """Whoever asks first makes it, everybody gets it."""
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: ensure_local_key(tmp_path), range(16)))
    assert len(keys) == 1
    assert ApiKeys(tmp_path).verify(keys.pop()) == "local"


def test_a_lost_plain_key_is_made_anew(tmp_path: Path) -> None:
    """Without its plain key the digest is of no use: a new one takes its place, other names stay."""
    old = ensure_local_key(tmp_path)
    other = make_key()
    keys = {**load(tmp_path), "ci": digest_of_key(other).upper()}
    (tmp_path / "keys.json").write_bytes(msgspec.json.encode(keys))
    (tmp_path / "key").unlink()
    new = ensure_local_key(tmp_path)
    known = ApiKeys(tmp_path)
    assert [known.verify(key) for key in (old, new, other)] == [None, "local", "ci"]


def test_changes_hold_at_once(tmp_path: Path) -> None:
    """A key that is added or taken out is known or revoked with the next question."""
    known = ApiKeys(tmp_path)
    assert known.verify("anything") is None
    key = ensure_local_key(tmp_path)
    assert known.verify(key) == "local"
    (tmp_path / "keys.json").write_text("{}")
    assert known.verify(key) is None
    (tmp_path / "keys.json").unlink()
    assert known.verify(key) is None


@pytest.mark.parametrize("key", ["", "x" * 10_000, "\udcff", "ключ"])
def test_odd_keys_are_nobodys(tmp_path: Path, key: str) -> None:
    """Whatever comes in a header is a wrong key, not an error."""
    ensure_local_key(tmp_path)
    assert ApiKeys(tmp_path).verify(key) is None


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"local": 5}', b"\xff"])
def test_an_unreadable_file_lets_nobody_in(tmp_path: Path, content: bytes) -> None:
    """A broken file is an error that names it, never an open door, and is not overwritten."""
    key = ensure_local_key(tmp_path)
    known = ApiKeys(tmp_path)
    assert known.verify(key)
    (tmp_path / "keys.json").write_bytes(content)
    with pytest.raises(KeysUnreadable, match=r"keys\.json"):
        known.verify(key)
    with pytest.raises(KeysUnreadable):
        ensure_local_key(tmp_path)
    assert content == (tmp_path / "keys.json").read_bytes()


def test_a_key_that_is_given_takes_the_place_of_the_local_one(tmp_path: Path) -> None:
    """Whoever had the old one is not let in any more, others are; the plain key is nowhere."""
    old = ensure_local_key(tmp_path)
    other, given = make_key(), make_key()
    (tmp_path / "keys.json").write_bytes(msgspec.json.encode({**load(tmp_path), "ci": digest_of_key(other)}))
    let_in(tmp_path, given)
    assert [ApiKeys(tmp_path).verify(key) for key in (old, other, given)] == [None, "ci", "local"]
    assert not (tmp_path / "key").exists()


def test_adding_and_revoking(tmp_path: Path) -> None:
    """A key is good from the moment that it was made until it is revoked, and a name has one."""
    keys, local = ApiKeys(tmp_path), ensure_local_key(tmp_path)
    key = add(tmp_path, "ci")
    assert key is not None
    assert add(tmp_path, "ci") is None
    assert (keys.verify(key), keys.verify(local)) == ("ci", "local")
    assert revoke(tmp_path, "ci")
    assert not revoke(tmp_path, "ci")
    assert (keys.verify(key), keys.verify(local)) == (None, "local")
