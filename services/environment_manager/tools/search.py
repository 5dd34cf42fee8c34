"""List and search the files of the workspace, by git: it is fast, and knows what is to be ignored.

git runs in a process of its own with a time limit, so that no regular expression can hang the service, and with every
setting overridden by which a repository could make it start programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path

from events.tools import ListFiles, SearchFiles
from infra.subprocesses import ended
from services.environment_manager.tools.places import locate
from services.environment_manager.tools.refused import ToolRefused, outside

LIST_LIMIT = 1000
MATCH_LIMIT = 200
LINE_CHARACTERS = 400
OUTPUT_BYTES = 4 * 1024 * 1024
TIME_LIMIT_SECONDS = 10.0

_SAFE = ("-c", "core.fsmonitor=false", "-c", "core.quotePath=false", "-c", "core.hooksPath=/dev/null")
_TIMED_OUT = f"It did not end within {TIME_LIMIT_SECONDS:g} s"


async def list_files(workspace: Path, arguments: ListFiles) -> str:
    """Paths relative to the workspace, one a line, at most ``LIST_LIMIT``."""
    folder = _existing(workspace, arguments.path)
    if (workspace / ".git").exists():
        paths = await _tracked(workspace, _pathspecs(folder, arguments.pattern))
    else:
        paths = await asyncio.to_thread(_walked, workspace, folder, arguments.pattern)
    shown = paths[:LIST_LIMIT]
    if not shown:
        return "[no files]"
    text = "\n".join(shown) + "\n"
    more = len(paths) - len(shown)
    return f"{text}[{more} more files: narrow it with path or pattern]" if more > 0 else text


async def search_files(workspace: Path, arguments: SearchFiles) -> str:
    """``path:line:text`` of every matching line, at most ``MATCH_LIMIT``."""
    folder = _existing(workspace, arguments.path)
    command = ["grep", "-n", "-I", "--no-color", "--exclude-standard", "--full-name"]
    command.append("--untracked" if (workspace / ".git").exists() else "--no-index")
    rest = ["-e", arguments.pattern, "--", *_pathspecs(folder, arguments.glob)]
    code, lines, problem = await _git(workspace, [*command, "-P", *rest], b"\n", MATCH_LIMIT + 1)
    if code == 128 and "Perl-compatible" in problem:  # a git without them
        code, lines, problem = await _git(workspace, [*command, "-E", *rest], b"\n", MATCH_LIMIT + 1)
    if code is None and not lines:
        raise ToolRefused("search-timed-out", f"{_TIMED_OUT}. Search a smaller path, or for something simpler.")
    if code not in (0, 1, None) and not lines:
        reason = problem.strip().removeprefix("fatal: -e option, ").removeprefix("fatal: ")
        raise ToolRefused("invalid-pattern", f"The pattern cannot be searched for: {reason}.")
    if not lines:
        return "[no matches]"
    text = "\n".join(_cut(line) for line in lines[:MATCH_LIMIT]) + "\n"
    if len(lines) > MATCH_LIMIT:
        return f"{text}[more than {MATCH_LIMIT} matches: narrow it with path, glob or pattern]"
    return f"{text}[{_TIMED_OUT}; there may be more]" if code is None else text


def _existing(workspace: Path, path: str) -> str:
    """The path, without links, relative to the workspace ('.' for itself)."""
    parts = locate(workspace, path)
    if not workspace.joinpath(*parts).exists():
        raise ToolRefused("file-not-found", f"{path} does not exist.")
    return "/".join(parts) or "."


def _pathspecs(folder: str, pattern: str) -> list[str]:
    """What git calls it. ``**/`` may stand for nothing, too, as people expect."""
    if not pattern:
        return [f":(literal){folder}"]
    if pattern.startswith(("/", ":")) or ".." in pattern.split("/"):  # A colon begins git's own magic.
        raise outside(pattern)
    literal = re.sub(r"([*?\[\]\\])", r"\\\1", folder)
    base = "" if folder == "." else f"{literal}/"
    patterns = {pattern, f"*/{pattern}"} if "/" not in pattern else {pattern}
    return sorted({base + spec for each in patterns for spec in (each, each.replace("**/", ""))})


async def _tracked(workspace: Path, pathspecs: Sequence[str]) -> list[str]:
    command = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate", "--", *pathspecs]
    code, names, problem = await _git(workspace, command, b"\0", None)
    if code != 0:
        raise ToolRefused("list-failed", f"git could not list the files: {problem.strip() or _TIMED_OUT}.")
    paths = sorted(name.decode(errors="replace") for name in names)
    if len(paths) > LIST_LIMIT:
        return paths
    return [path for path in paths if os.path.lexists(workspace / path)]  # Those removed are in the index still.


def _walked(workspace: Path, folder: str, pattern: str) -> list[str]:
    """For a workspace that is no git working copy (any more)."""
    wanted = [re.compile(fnmatch.translate(spec)) for spec in _pathspecs(".", pattern)] if pattern else []
    start = workspace / folder
    found = []
    for directory, _, names in os.walk(start):
        for name in names:
            path = os.path.relpath(Path(directory) / name, start)
            if not wanted or any(each.match(path) for each in wanted):
                found.append(os.path.relpath(Path(directory) / name, workspace))
    return sorted(found)


async def _git(
    workspace: Path, command: Sequence[str], separator: bytes, limit: int | None
) -> tuple[int | None, list[bytes], str]:
    """Exit code (None past the time limit), at most ``limit`` items of output, and what it complained of."""
    process = await asyncio.create_subprocess_exec(
        "git",
        *_SAFE,
        *command,
        cwd=workspace,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_CEILING_DIRECTORIES": str(workspace.parent),
        },
    )
    assert process.stdout is not None
    assert process.stderr is not None
    output = bytearray()
    code: int | None = None
    problem = ""
    try:
        async with asyncio.timeout(TIME_LIMIT_SECONDS):
            while data := await process.stdout.read(65_536):
                output += data
                if (limit is not None and output.count(separator) >= limit) or len(output) > OUTPUT_BYTES:
                    code = 0
                    break
            else:
                problem = (await process.stderr.read(4_096)).decode(errors="replace")
                code = await ended(process)
    except TimeoutError:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await ended(process)
    *items, _ = output.split(separator)  # Each ends with the separator: the last is empty, or was cut off.
    return code, [bytes(item) for item in items[:limit]], problem


def _cut(line: bytes) -> str:
    text = line.decode(errors="replace")
    return text if len(text) <= LINE_CHARACTERS else f"{text[:LINE_CHARACTERS]} [... line cut]"
