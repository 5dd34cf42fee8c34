"""Real repositories for tests: small, made in a folder of the test, asked by plain git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Awaitable
from pathlib import Path

import pytest

from events.errors import Permanent
from services.environment_manager.adapters.workspaces import GitWorkspaces
from services.environment_manager.ports import Prepared

_QUIET = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"} | {
    f"GIT_{role}_{field}": value
    for role in ("AUTHOR", "COMMITTER")
    for field, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))
}


def git(folder: Path, *arguments: str) -> str:
    """Run git in ``folder`` as a person would; answer what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | _QUIET
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"git {arguments}: {done.stderr}"
    return done.stdout.strip()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def commit(folder: Path, files: dict[str, str], message: str = "change") -> str:
    """Write files, commit everything, answer the commit."""
    write(folder, files)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(folder, "rev-parse", "HEAD")


def repository(folder: Path, files: dict[str, str] | None = None) -> Path:
    """A repository with a working tree, its branch ``main`` at one commit."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, files or {"app.py": "print('hello')\n", "README.md": "shop\n"}, "first")
    return folder


def bare(folder: Path, source: Path) -> Path:
    """A bare repository with what ``source`` has."""
    git(source, "clone", "--quiet", "--bare", str(source), str(folder))
    return folder


def files_in(folder: Path) -> dict[str, str]:
    """Every file below ``folder`` with its text, without what git keeps."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


async def prepared(workspaces: GitWorkspaces, source: Path, id: str = "shop-1-development", **more: str) -> Prepared:
    """A workspace of the repository ``source``, on its default branch."""
    return await workspaces.prepare(id, str(source), base_branch="", bases=(), **more)


async def refused(attempt: Awaitable[object]) -> Permanent:
    """What an attempt is refused with."""
    with pytest.raises(Permanent) as caught:
        await attempt
    return caught.value
