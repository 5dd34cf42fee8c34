"""The record that an agent program keeps of its own session, beside ours.

After each call of the program a copy is laid aside on this host, by its SHA-256, which the log names. It never leaves
the host: nobody knows what such a file holds. Paths are relative to the working copy; ``~`` is the home directory that
the processes of the environment see. A path out of the environment is refused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from events.errors import Permanent

KEPT = "sessions"


def keep(directory: Path, session_file: str) -> str:
    """Lay a copy aside; answer its digest, empty where there is no such file."""
    source = place(directory, session_file)
    digest = digest_of(directory, session_file)
    if digest:
        folder = directory / KEPT
        folder.mkdir(mode=0o700, exist_ok=True)
        fresh = folder / f".{digest}"
        shutil.copyfile(source, fresh)
        fresh.rename(folder / digest)
    return digest


def put_back(directory: Path, session_file: str, digest: str) -> None:
    """Make the file what it was when ``digest`` was recorded. Raises ``Permanent`` where no copy is here."""
    kept = directory / KEPT / digest
    if not kept.is_file():
        message = f"the session {digest} was not kept on this host: accept what is there, or abandon the run"
        raise Permanent(message, slug="session-missing")
    target = place(directory, session_file)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.cairn")
    shutil.copyfile(kept, fresh)
    fresh.rename(target)


def digest_of(directory: Path, session_file: str) -> str:
    """The file's SHA-256, empty where there is none. Raises ``Permanent`` for one that cannot be read."""
    try:
        with place(directory, session_file).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""
    except OSError as error:
        message = f"the session file {session_file} cannot be read: {error}"
        raise Permanent(message, slug="session-unreadable") from error


def place(directory: Path, session_file: str) -> Path:
    """Where the file of the environment in ``directory`` lies."""
    relative = session_file.removeprefix("~/")
    base = directory / ("home" if relative != session_file else "workspace")
    path = Path(os.path.normpath(base / relative))
    if not path.is_relative_to(directory):
        message = (
            f"session_file {session_file!r} leads out of the environment: give one relative to the working copy or ~"
        )
        raise Permanent(message, slug="session-outside")
    return path
