"""The ``.git`` of a workspace, and where its contents come from.

A workspace has a repository of its own that borrows the mirror's objects (``objects/info/alternates``, as ``git clone
--shared`` makes it). A linked worktree would share branches, configuration and the stash with every other workspace
of the repository; here whatever an agent does with git stays in its workspace. It has no remote: the
environment-manager pushes, not the agent. The layout is gitrepository-layout(5); writing it takes no process.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

_CONFIGURATION = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
[gc]
\tauto = 0
[user]
\tname = Cairn
\temail = cairn@localhost
"""

_BASE = "Cairn-Base: "
_START = "Cairn-Start: "


class Origin(msgspec.Struct, frozen=True):
    """What a workspace began with: ``base_commit`` of ``base_branch``, and ``start``, which is that commit with the
    bases merged onto it. Every checkpoint carries it in its message, so that it can be published from anywhere."""

    base_branch: str
    base_commit: str
    start: str

    def signed(self, message: str, environment_id: str) -> str:
        """``message`` as a checkpoint of this origin carries it."""
        text = message.replace("\0", "").strip() or "checkpoint"
        return (
            f"{text}\n\nCairn-Environment: {environment_id}\n"
            f"{_BASE}{self.base_commit} {self.base_branch}\n{_START}{self.start}"
        )

    @classmethod
    def of(cls, message: str) -> Origin | None:
        """The origin that a checkpoint's message carries; None where it is no checkpoint's."""
        lines = message.strip().splitlines()[-2:]
        if len(lines) < 2 or not (lines[0].startswith(_BASE) and lines[1].startswith(_START)):
            return None
        commit, _, branch = lines[0].removeprefix(_BASE).partition(" ")
        return cls(branch, commit, lines[1].removeprefix(_START).strip())


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """``workspace.json``: that a workspace stands, and what it was made of. ``commit`` is its first checkpoint."""

    repository_url: str
    mirror: str
    origin: Origin
    commit: str
    tree: str


def read_record(directory: Path) -> Record | None:
    """The record in an environment's directory; None where there is none, or a power failure left half of it."""
    try:
        return msgspec.json.decode((directory / "workspace.json").read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_record(directory: Path, record: Record) -> None:
    temporary = directory / "workspace.json.new"
    temporary.write_bytes(msgspec.json.encode(record))
    temporary.rename(directory / "workspace.json")


def make_git_directory(workspace: Path, mirror: Path, branch: str, origin: Origin) -> Path:
    """Give the workspace a fresh ``.git`` with ``branch`` at the origin's start; answer where its index belongs."""
    git = workspace / ".git"
    _remove(git)
    refs = {f"heads/{branch}": origin.start, f"remotes/origin/{origin.base_branch}": origin.base_commit}
    files = {f"refs/{name}": f"{commit}\n" for name, commit in refs.items()} | {
        "config": _CONFIGURATION,
        "objects/info/alternates": f"{mirror / 'objects'}\n",
        "HEAD": f"ref: refs/heads/{branch}\n",
    }
    for name, text in files.items():
        path = git / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if (mirror / "shallow").is_file():
        shutil.copyfile(mirror / "shallow", git / "shallow")
    return git / "index"


def mend(directory: Path, mirror: Path, branch: str, origin: Origin) -> None:
    """Bring back a workspace that is gone, or a ``.git`` of it that is no longer ours."""
    workspace = directory / "workspace"
    workspace.mkdir(exist_ok=True)
    if not _is_ours(workspace / ".git", mirror):
        index = make_git_directory(workspace, mirror, branch, origin)
        shutil.copy2(directory / "checkpoint.index", index)


def _is_ours(git: Path, mirror: Path) -> bool:
    try:
        borrowed = (git / "objects/info/alternates").read_text()
    except (OSError, UnicodeDecodeError):
        return False
    return not git.is_symlink() and (git / "HEAD").is_file() and str(mirror) in borrowed


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a folder, folders without write permission in it too; nothing where there is none."""
    if not path.exists():
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        path.chmod(0o700)
        for folder, names, _ in os.walk(path):
            for name in names:
                if not (child := Path(folder, name)).is_symlink():
                    child.chmod(0o700)
        shutil.rmtree(path)
