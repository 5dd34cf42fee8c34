"""Paths that stay inside a workspace, whatever links lead where and whoever changes them meanwhile.

A path is resolved once, with all its links, and must then lie inside the workspace and outside ``.git``. What it came
to has no link in it; it is opened one directory after another without following any, so a link that is put there
between the two steps makes the opening fail instead of leading out.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from services.environment_manager.tools.refused import ToolRefused, about, outside

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def locate(workspace: Path, path: str) -> tuple[str, ...]:
    """The parts of the real path below the workspace; none for the workspace itself. It need not exist."""
    if "\0" in path:
        raise ToolRefused("path-outside-workspace", "The path holds a null byte.")
    with about(path):
        root = Path(os.path.realpath(workspace))
        real = Path(os.path.realpath(root / path))
    if not real.is_relative_to(root):
        raise outside(path)
    parts = real.relative_to(root).parts
    if any(part.lower() == ".git" for part in (*parts, *Path(path).parts)):
        raise ToolRefused(
            "path-outside-workspace", f"{path} belongs to git. Use git's commands in the shell to look into its state."
        )
    return parts


@contextlib.contextmanager
def parent_of(workspace: Path, parts: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
    """A descriptor of the directory that holds the last of ``parts``. ``create`` makes what is missing."""
    handle = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=handle)
            below = os.open(part, _DIRECTORY, dir_fd=handle)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def opened(workspace: Path, path: str) -> Iterator[BinaryIO]:
    """A regular file of the workspace, to read. Refuses everything else: a pipe would be waited for without end."""
    parts = locate(workspace, path)
    if not parts:
        raise IsADirectoryError
    with parent_of(workspace, parts) as parent:
        handle = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    with open(handle, "rb") as file:  # noqa: PTH123 - a descriptor
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError
        if not stat.S_ISREG(mode):
            raise ToolRefused("not-a-file", f"{path} is a device, pipe or socket, not a file.")
        yield file
