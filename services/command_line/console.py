"""What a command prints: tables, fields and JSON on standard output; errors and progress on standard error.

rich is imported at the first print, so that ``--json`` never pays for it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from services.command_line.failures import Failure

if TYPE_CHECKING:
    from rich.console import Console

# A table in a pipe has room for its columns; on a terminal it fits the window.
PIPE_COLUMNS = 240

STYLES = {
    "running": "cyan",
    "completed": "green",
    "succeeded": "green",
    "passed": "green",
    "merged": "green",
    "approved": "green",
    "delivered": "green",
    "ready": "green",
    "needs_input": "yellow",
    "diverged": "red",
    "lost": "red",
    "in_review": "yellow",
    "uncertain": "yellow",
    "interrupted": "yellow",
    "failed": "red",
    "blocked": "red",
    "stopped": "red",
    "refused": "red",
    "crashed": "red",
    "abandoned": "red",
    "deviated": "red",
    "aborted": "yellow",
    "aborting": "yellow",
    "stuck": "red",
    "undone": "green",
    "checked": "green",
}


@cache
def out() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    return Console(highlight=False, emoji=False, markup=False, soft_wrap=True, width=width)


@cache
def err() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False, markup=False, soft_wrap=True)


def say(text: str = "", style: str | None = None) -> None:
    out().print(safe(text), style=style)


def note(text: str, style: str | None = "dim") -> None:
    """A remark that is no part of the answer."""
    err().print(safe(text), style=style)


def show_failure(failure: Failure) -> None:
    err().print(f"Error: {safe(str(failure))}", style="red")
    if failure.hint:
        err().print(safe(failure.hint), style="dim")


def show_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")


def show_json_line(value: Any) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """One line a row, as wide as it needs to be; what is known as a status gets its colour."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(*columns, box=SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    for row in rows:
        cells = [safe(cell(value)).replace("\n", " ") for value in row]
        shown.add_row(*(Text(text, style=STYLES.get(text, "")) for text in cells))
    if shown.row_count:
        out().print(shown)
    else:
        note(empty)


def fields(pairs: Mapping[str, Any]) -> None:
    """Names and values in two columns; empty values are left out."""
    from rich.table import Table
    from rich.text import Text

    shown = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        text = safe(cell(value))
        if text:
            shown.add_row(Text(name, style="bold"), Text(text, style=STYLES.get(text, "")))
    out().print(shown)


def cell(value: Any) -> str:
    match value:
        case None | "" | [] | {}:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return ", ".join(cell(item) for item in value)
        case _:
            return str(value)


def safe(text: str) -> str:
    """Without control characters: what an agent wrote must not drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


# Control sequences (CSI), strings for the terminal (OSC), and control characters but tab and the ends of lines.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


def terminal_text(text: str) -> str:
    """What a process printed, for a terminal: colours stay, everything else that would drive the terminal goes."""
    return _ESCAPES.sub(lambda found: found[0] if found[0].startswith("\x1b[") and found[0].endswith("m") else "", text)


def when(value: str | None) -> str:
    """A time of the API in the local time zone, to the second."""
    if not value:
        return ""
    return datetime.fromisoformat(value).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def ago(value: str | None) -> str:
    """How long ago a time of the API is, in its largest unit."""
    if not value:
        return ""
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(value)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return ""
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def shortened(text: str, limit: int = 100) -> str:
    """The first line of ``text``, at most ``limit`` characters of it."""
    first, *more = text.strip().splitlines() or [""]
    return first[: limit - 1] + "…" if len(first) > limit or more else first
