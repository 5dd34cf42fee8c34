"""What the system tests work on: a small repository with a mistake, and what an agent does about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.integration import git_examples
from tests.model_server import Call, Turn

TEST_COMMAND = "grep -qx 'Hello, world' greeting.txt"
MEND = "sed -i s/Helo/Hello/ greeting.txt"
MENDED = "Hello, world"
# Longer than any test: an answer that nobody hears any more.
NEVER_SECONDS = 300.0


def repository(folder: Path) -> Path:
    """A repository whose greeting is misspelt, checked out on ``main``."""
    return git_examples.repository(folder, {"greeting.txt": "Helo, world\n", "README.md": "# Greetings\n"})


def bare_remote(folder: Path) -> Path:
    """A bare repository with the same content."""
    return git_examples.bare(folder, repository(folder.with_name(f"{folder.name}-source")))


def shell(command: str, text: str = "", **fields: Any) -> Turn:
    return Turn(text=text, calls=(Call("shell", {"command": command}),), **fields)


def submit(summary: str = "Done.", **fields: Any) -> Turn:
    return Turn(calls=(Call("submit", {"summary": summary}),), **fields)


def lines(path: Path) -> list[str]:
    """What commands have appended to a file so far."""
    return path.read_text().splitlines() if path.exists() else []


def until_exists(path: Path) -> str:
    """A command that waits for a file."""
    return f"until [ -e '{path}' ]; do sleep 0.05; done"


def numbers(first: int, last: int) -> str:
    """What ``seq`` prints."""
    return "".join(f"{number}\n" for number in range(first, last + 1))
