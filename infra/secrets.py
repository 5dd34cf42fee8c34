"""Secrets by reference: what stands in settings, events and commands is where a secret is, never the secret.

``env:NAME`` is a variable of the service's own environment, ``file:PATH`` a file (one trailing newline is dropped).
References are resolved where the secret is used, at the time it is used.
"""

from __future__ import annotations

import os
from pathlib import Path

from events.errors import Permanent

FILE_LIMIT_BYTES = 65_536


def resolve(reference: str) -> str:
    """The secret that ``reference`` stands for. Raises ``Permanent`` (``secret-not-found``), which names it."""
    scheme, _, name = reference.partition(":")
    if scheme == "env" and name:
        value = os.environ.get(name, "")
        if not value:
            raise _missing(reference, f"the environment variable {name} is not set, or empty, for this service")
        return value
    if scheme == "file" and name:
        return _read(reference, Path(name).expanduser())
    # What was written in the place of a reference may be the secret itself: it is not repeated.
    hidden = "(not shown)"
    raise _missing(hidden, "a secret is given as env:NAME or file:PATH, and this is neither")


def _read(reference: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
        value = data.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise _missing(reference, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise _missing(reference, "the file is not text") from error
    if not value or len(data) > FILE_LIMIT_BYTES:
        raise _missing(reference, "the file is too large" if value else "the file is empty")
    return value


def _missing(reference: str, why: str) -> Permanent:
    return Permanent(f"secret {reference}: {why}.", slug="secret-not-found")
