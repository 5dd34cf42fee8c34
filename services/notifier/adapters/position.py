"""The position in a small file: the time the log was made, and the sequence that was reached in it."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

log = structlog.get_logger()


class _Position(msgspec.Struct, frozen=True):
    log_created_at: datetime
    sequence: int


class PositionFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, log_created_at: datetime) -> int | None:
        try:
            position = msgspec.json.decode(self._path.read_bytes(), type=_Position)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("the position cannot be read; it is derived from the log", path=str(self._path), error=error)
            return None
        return position.sequence if position.log_created_at == log_created_at else None

    def write(self, log_created_at: datetime, sequence: int) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            fresh.write_bytes(msgspec.json.encode(_Position(log_created_at, sequence)))
            fresh.replace(self._path)
        except OSError as error:
            log.warning("the position cannot be kept", path=str(self._path), error=error)
