"""How a command fails: a sentence that says what is wrong, a hint what to do, an exit code for scripts.

==== ======================================================
code meaning
==== ======================================================
0    done
1    what was asked for failed (a task that failed, a merge that was refused)
2    the command or its input is not valid
3    no Cairn can be reached, or it does not know the key
4    what was named does not exist
==== ======================================================
"""

from __future__ import annotations

from events.errors import CairnError

FAILED = 1
INVALID = 2
UNREACHABLE = 3
NOT_FOUND = 4


class Failure(CairnError):
    """Shown to the user as ``message`` in red and ``hint`` below it; the process ends with ``exit_code``."""

    def __init__(self, message: str, *, hint: str = "", exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code
