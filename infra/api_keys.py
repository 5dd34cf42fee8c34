"""API keys: who may speak to the gateway, as names with the SHA-256 of their keys.

``<home>/keys.json`` is ``{"name": "sha256 hex"}``, readable by its owner only; the keys themselves are not kept. A
name that is taken out is revoked with the next request: the file is read again when it has changed. A key has 32
random bytes, so that a plain SHA-256 protects it. The key named ``local`` is the exception that a stack on one host
needs: it also lies in ``<home>/key``, readable by its owner only, where the command line finds it.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from events.errors import CairnError

KEYS_FILE = "keys.json"
KEY_FILE = "key"
LOCAL = "local"
PREFIX = "cairn_"
LONGEST_KEY = 256


class KeysUnreadable(CairnError):
    """The file of keys cannot be read or is no object of names and SHA-256 digests; nobody is let in meanwhile."""


def make_key() -> str:
    """A new key: ``cairn_`` and 32 random bytes in base64url."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of_key(key: str) -> str:
    """The hex SHA-256 that stands in the file for ``key``."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def load(home: Path) -> dict[str, str]:
    """Name → digest of every key, empty where there is no file. Raises ``KeysUnreadable``."""
    path = home / KEYS_FILE
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"the keys in {path} cannot be read ({error}); it must hold an object of names and SHA-256 digests."
        raise KeysUnreadable(message) from error
    return keys


class ApiKeys:
    """The keys of one home, as the file says at this moment."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._version: tuple[int, int, int] | None = None
        self._digests: dict[str, str] = {}

    def verify(self, key: str) -> str | None:
        """The name of ``key``, None where it is nobody's. Takes the same time for every wrong key."""
        self._refresh()
        if len(key) > LONGEST_KEY:
            return None
        given = digest_of_key(key)
        found = None
        for name, digest in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return found

    def _refresh(self) -> None:
        try:
            status = (self._home / KEYS_FILE).stat()
        except FileNotFoundError:
            self._version, self._digests = None, {}
            return
        version = (status.st_ino, status.st_mtime_ns, status.st_size)
        if version != self._version:
            digests = {name: digest.lower() for name, digest in load(self._home).items() if digest.isascii()}
            self._version, self._digests = version, digests


def ensure_local_key(home: Path) -> str:
    """The key named ``local``, made where there is none that its digest in the file agrees with. Safe to call at once
    from several processes. Raises ``KeysUnreadable``, ``OSError``."""
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home):
        keys = load(home)
        path = home / KEY_FILE
        key = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
        if key and LOCAL in keys and hmac.compare_digest(digest_of_key(key), keys[LOCAL]):
            return key
        key = make_key()
        # The plain key first: whoever sees the digest must find the key that belongs to it.
        _write_privately(path, key.encode() + b"\n")
        keys[LOCAL] = digest_of_key(key)
        _write_keys(home, keys)
        return key


def add(home: Path, name: str) -> str | None:
    """A new key of that name; None where there is one already. Raises ``KeysUnreadable``, ``OSError``."""
    with _locked(home):
        keys = load(home)
        if name in keys:
            return None
        key = make_key()
        _write_keys(home, keys | {name: digest_of_key(key)})
        return key


def revoke(home: Path, name: str) -> bool:
    """Take a key back; False where there is none of that name. Raises ``KeysUnreadable``, ``OSError``."""
    with _locked(home):
        keys = load(home)
        known = keys.pop(name, None) is not None
        if known:
            _write_keys(home, keys)
        return known


def let_in(home: Path, key: str) -> None:
    """``key`` is the one named ``local`` from now on, whatever was; the plain key is not kept. Raises as above."""
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home):
        (home / KEY_FILE).unlink(missing_ok=True)
        _write_keys(home, load(home) | {LOCAL: digest_of_key(key)})


def _write_keys(home: Path, keys: dict[str, str]) -> None:
    _write_privately(home / KEYS_FILE, msgspec.json.format(msgspec.json.encode(keys)))


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    descriptor = os.open(home / f".{KEYS_FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_privately(path: Path, data: bytes) -> None:
    """Replace the file as one step; it is never readable by others and never half written."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
