"""Read, write and edit files of the workspace. Blocking: for a thread."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

from events.tools import EditFile, ReadFile, WriteFile
from services.environment_manager.tools.places import locate, opened, parent_of
from services.environment_manager.tools.refused import ToolRefused, about

# What one call answers at most; it says how to go on.
READ_BYTES = 60_000
LINE_BYTES = 4_000
EDIT_BYTES = 16 * 1024 * 1024
SNIFF_BYTES = 8_192


def read_file(workspace: Path, arguments: ReadFile) -> str:
    """The lines asked for as text, with a note in brackets below them where there is more."""
    path = arguments.path
    with about(path), opened(workspace, path) as file:
        if b"\0" in file.read(SNIFF_BYTES):
            size = os.fstat(file.fileno()).st_size
            raise ToolRefused("binary-file", f"{path} is a binary file of {size} bytes, which cannot be shown as text.")
        file.seek(0)
        number, shown, taken = 0, bytearray(), 0
        while line := _line(file):
            number += 1
            if number < arguments.offset:
                continue
            if taken == arguments.limit or len(shown) + len(line) > READ_BYTES:
                return _text(shown) + (
                    f"[lines {arguments.offset} to {number - 1}; the file goes on: read it with offset {number}]"
                )
            shown += line
            taken += 1
    if number == 0:
        return "[the file is empty]"
    if arguments.offset > number:
        raise ToolRefused("no-such-line", f"{path} has only {number} lines.")
    return shown.decode(errors="replace")


def _line(file: BinaryIO) -> bytes:
    """The next line, its middle left out where it is long; nothing at the end."""
    line = file.readline(LINE_BYTES)
    if len(line) < LINE_BYTES or line.endswith(b"\n"):
        return line
    left_out = 0
    while rest := file.readline(1 << 16):
        left_out += len(rest.rstrip(b"\n"))
        if rest.endswith(b"\n"):
            break
    return line + b" [... %d bytes of this line left out]\n" % left_out if left_out else line


def _text(lines: bytearray) -> str:
    text = lines.decode(errors="replace")
    return text if not text or text.endswith("\n") else text + "\n"


def write_file(workspace: Path, arguments: WriteFile) -> str:
    data = _encoded(arguments.content, "content")
    with about(arguments.path):
        new = _replace(workspace, arguments.path, data)
    return f"{'Created' if new else 'Wrote'} {arguments.path}, {len(data)} bytes."


def edit_file(workspace: Path, arguments: EditFile) -> str:
    path, old, new = arguments.path, _encoded(arguments.old, "old"), _encoded(arguments.new, "new")
    with about(path), opened(workspace, path) as file:
        data = file.read(EDIT_BYTES + 1)
    if len(data) > EDIT_BYTES:
        raise ToolRefused("file-too-large", f"{path} is too large to edit in one piece; use a command in the shell.")
    count = data.count(old)
    _check_edit(path, data, old, new, count, replace_all=arguments.replace_all)
    with about(path):
        _replace(workspace, path, data.replace(old, new))
    line = data[: data.index(old)].count(b"\n") + 1
    return f"Replaced {count} occurrences in {path}." if count > 1 else f"Replaced the text at line {line} of {path}."


def _check_edit(path: str, data: bytes, old: bytes, new: bytes, count: int, *, replace_all: bool) -> None:
    if old == new:
        raise ToolRefused("nothing-to-change", "old and new are the same text.")
    if count > 1 and not replace_all:
        detail = f"old stands {count} times in {path}. Give more of the text around it, or set replace_all."
        raise ToolRefused("text-not-unique", detail)
    if count == 0:
        raise ToolRefused("text-not-found", f"old does not stand in {path}{_hint(data, old)}.")


def _hint(data: bytes, old: bytes) -> str:
    if b"\r\n" in data and old.replace(b"\n", b"\r\n") in data:
        return ": the lines of the file end with \\r\\n, those of old with \\n"
    if re.sub(rb"\s+", b" ", old).strip() in re.sub(rb"\s+", b" ", data):
        return " with this whitespace. It does with another: read the file again and copy it exactly"
    return ". Read the file again: it may have changed"


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ToolRefused("invalid-arguments", f"{name} holds half of a character (a lone surrogate).") from error


def _replace(workspace: Path, path: str, data: bytes) -> bool:
    """Put ``data`` in the place of a file at once, its mode kept; True where there was none."""
    parts = locate(workspace, path)
    if not parts or path.endswith("/"):
        raise IsADirectoryError
    with parent_of(workspace, parts, create=True) as parent:
        mode = None
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False).st_mode
        if mode is not None and not stat.S_ISREG(mode):
            if stat.S_ISDIR(mode):
                raise IsADirectoryError
            raise ToolRefused("not-a-file", f"{path} is not a regular file.")
        aside = f".cairn-{secrets.token_hex(6)}"
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=parent)
        try:
            with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor
                file.write(data)
                if mode is not None:
                    os.fchmod(handle, stat.S_IMODE(mode))
            os.replace(aside, parts[-1], src_dir_fd=parent, dst_dir_fd=parent)
        except OSError:
            os.unlink(aside, dir_fd=parent)
            raise
    return mode is None
