"""Why a tool did not do what it was asked, in words for the one who asked."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from events.errors import CairnError


class ToolRefused(CairnError):
    """``cause`` is a slug for programs, the message is what the agent is told."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


def outside(path: str) -> ToolRefused:
    detail = f"{path} is outside the working copy. Only paths inside it can be used, best relative to its root."
    return ToolRefused("path-outside-workspace", detail)


@contextlib.contextmanager
def about(path: str) -> Iterator[None]:
    """What the file system says of ``path``, as a refusal."""
    try:
        yield
    except FileNotFoundError as error:
        raise ToolRefused("file-not-found", f"{path} does not exist.") from error
    except IsADirectoryError as error:
        raise ToolRefused("not-a-file", f"{path} is a directory; list_files shows what is in it.") from error
    except NotADirectoryError as error:
        raise ToolRefused("file-not-found", f"{path}: a part of the path is a file, not a directory.") from error
    except OSError as error:
        if error.errno == errno.ELOOP:  # A link that was not there when the path was looked at.
            raise outside(path) from error
        raise ToolRefused("file-unusable", f"{path}: {error.strerror or error}.") from error
