"""SQL from files: a file holds statements, each under a header ``-- name: words_with_underscores``.

Comment lines that follow a header stay with the statement. The files are read once, when they are first asked for.
"""

from __future__ import annotations

import functools
from pathlib import Path

_FOLDER = Path(__file__).parent / "sql"
_HEADER = "-- name: "


def text(name: str) -> str:
    """The whole file ``name`` of the folder ``sql``."""
    return (_FOLDER / name).read_text(encoding="utf-8")


@functools.cache
def statements(name: str) -> dict[str, str]:
    """The statements of a file by their names."""
    found: dict[str, str] = {}
    for part in f"\n{text(name)}".split(f"\n{_HEADER}")[1:]:
        title, _, statement = part.partition("\n")
        if title.strip() in found:
            message = f"{name} names {title.strip()!r} twice"
            raise ValueError(message)
        found[title.strip()] = statement.strip().rstrip(";")
    return found
