"""Snapshots: a fold as it was at some sequence, on this host's disk, so that a start reads only what came since.

A snapshot is never needed and never trusted further than this: it counts only for the very log that it was made of
(its stream's creation time), only where that log is at least as long, and only for the code that made it (a digest of
``events``, where every fold lives). Anything else is as if there were none. It is written beside and renamed, without
fsync: one that a crash has torn does not decode.
"""

from __future__ import annotations

import functools
import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import structlog
from immutables import Map

import events

logger = structlog.get_logger()

S = TypeVar("S")


class _Header(msgspec.Struct, array_like=True):
    code: str
    created_at: datetime
    sequence: int


class SnapshotFile(Generic[S]):
    """Keeps values of ``kind``, a msgspec struct, at ``path``."""

    def __init__(self, path: Path, kind: type[S]) -> None:
        self._path = path
        # mypy does not take a type variable's class for hashable, which every class is.
        self._decoder: msgspec.msgpack.Decoder[S] = _decoder_of(kind)  # type: ignore[arg-type]

    def save(self, state: S, *, created_at: datetime, sequence: int) -> None:
        """Keep ``state``, the fold of the log made at ``created_at`` up to ``sequence``. A full disk only costs the
        next start its time."""
        header = msgspec.msgpack.encode(_Header(code_digest(), created_at, sequence))
        data = msgspec.msgpack.encode(state, enc_hook=_encode)
        fresh = self._path.with_name(f".{self._path.name}.fresh")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(len(header).to_bytes(4, "big") + header + data)
            fresh.replace(self._path)
        except OSError as error:
            logger.warning("no snapshot", path=str(self._path), error=str(error))

    def load(self, *, created_at: datetime, last_sequence: int) -> tuple[S, int] | None:
        """The state and its sequence, or None where there is nothing that can be used with this log and code."""
        try:
            data = self._path.read_bytes()
            length = int.from_bytes(data[:4], "big")
            header = msgspec.msgpack.decode(data[4 : 4 + length], type=_Header)
            if header.code != code_digest() or header.created_at != created_at or header.sequence > last_sequence:
                return None
            state: S = self._decoder.decode(data[4 + length :])
            return state, header.sequence
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            logger.warning("snapshot not used", path=str(self._path), error=str(error))
            return None

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


@functools.cache
def code_digest() -> str:
    """A digest of the code that folds: a snapshot that other code made may mean something else."""
    digest = hashlib.sha256()
    for path in sorted(Path(str(events.__file__)).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _decoder_of(kind: type[Any]) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind, dec_hook=_decode)


def _encode(value: Any) -> Any:
    if isinstance(value, Map):
        return dict(value)
    message = f"{type(value).__name__} cannot be kept in a snapshot"
    raise TypeError(message)


def _decode(kind: type, value: Any) -> Any:
    if kind is Map or getattr(kind, "__origin__", None) is Map:
        return Map(value)
    message = f"{kind} cannot be read from a snapshot"
    raise TypeError(message)
