"""A project's remote: what it offers, and pushing to it. No mirror stores its address.

A password or token in an ``http(s)`` URL is taken out of it at once and travels as a header for that host alone
(``http.<url>.extraHeader``); a token by settings takes the same way. Paths and ``file://`` URLs are local: there git
starts the other side itself, so we choose how that side behaves.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import msgspec

from events.errors import Permanent, Transient
from services.environment_manager.adapters.git import Git, GitFailed, Place, refusal

# Gives a token (or "user:password") for a URL, or None where git's own means are to be used.
Credentials = Callable[[str], str | None]

NAMES_LISTED = 10
# GitHub wants this name beside a token; GitLab and Gitea take any.
TOKEN_USER = "x-access-token"

# The remote may belong to another user of this host, as mounted volumes do.
_UPLOAD = "git -c 'safe.directory=*' upload-pack"
_RECEIVE = "git -c 'safe.directory=*' receive-pack"
# Where the branch is checked out, a clean working tree follows the push and a dirty one refuses it.
_RECEIVE_INTO_WORK_TREE = "git -c 'safe.directory=*' -c receive.denyCurrentBranch=updateInstead receive-pack"

_MOVED = re.compile(r"stale info|fetch first|non-fast-forward|cannot lock ref|failed to update ref|incorrect old value")


class Remote(msgspec.Struct, frozen=True):
    """``url`` holds no password; ``authorization`` is the value of a header, or empty."""

    url: str
    authorization: str = ""

    @property
    def local(self) -> bool:
        return self.url.startswith(("/", "file://"))

    @property
    def configuration(self) -> tuple[tuple[str, str], ...]:
        if not self.authorization:
            return ()
        parts = urlsplit(self.url)
        host = urlunsplit((parts.scheme, parts.netloc, "/", "", ""))
        return ((f"http.{host}.extraHeader", f"Authorization: {self.authorization}"),)


class Offer(msgspec.Struct, frozen=True):
    """What a remote has: the branch its HEAD names (empty where it names none) and every branch's commit."""

    default: str
    heads: dict[str, str]

    @property
    def names(self) -> str:
        """Some of the branches, for a message."""
        listed = sorted(self.heads)
        return ", ".join(listed[:NAMES_LISTED]) + (" …" if len(listed) > NAMES_LISTED else "")


class BranchMoved(Exception):
    """The remote's branch is no longer where we saw it, or another git writes it at this moment; which, it says."""


def remote_of(url: str, credentials: Credentials | None = None) -> Remote:
    """The remote that a project's ``repository_url`` names. Raises ``Permanent`` where it cannot name one."""
    if not url or url.startswith("-") or "\n" in url or "\0" in url:
        message = f"{url!r} is no repository: give a path or a URL"
        raise Permanent(message, slug="repository-not-found")
    if "://" not in url and ":" not in url.split("/", 1)[0]:
        return Remote(str(Path(url).expanduser().absolute()))
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return Remote(url)
    userinfo, _, host = parts.netloc.rpartition("@")
    bare = urlunsplit(parts._replace(netloc=host))
    token = (credentials(bare) if credentials else None) or _userinfo(userinfo)
    return Remote(bare, _basic(token) if token else "")


def _userinfo(text: str) -> str:
    user, colon, password = text.partition(":")
    return f"{unquote(user)}:{unquote(password)}" if colon else unquote(user)


def _basic(token: str) -> str:
    pair = token if ":" in token else f"{TOKEN_USER}:{token}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


async def offer(git: Git, remote: Remote) -> Offer:
    """The remote's branches. Raises ``Permanent`` (``repository-*``) and ``Transient``."""
    options = [f"--upload-pack={_UPLOAD}"] if remote.local else []
    try:
        answer = await git.run_remote(
            "ls-remote",
            "--symref",
            *options,
            "--",
            remote.url,
            "HEAD",
            "refs/heads/*",
            configuration=remote.configuration,
        )
    except GitFailed as error:
        raise refusal(error, f"the repository {remote.url} cannot be read") from error
    default, heads = "", {}
    for line in answer.stdout.decode(errors="replace").splitlines():
        value, _, name = line.partition("\t")
        if name == "HEAD" and value.startswith("ref: refs/heads/"):
            default = value.removeprefix("ref: refs/heads/")
        elif name.startswith("refs/heads/"):
            heads[name.removeprefix("refs/heads/")] = value
    return Offer(default, heads)


async def fetch(git: Git, remote: Remote, mirror: Path, refspec: str) -> None:
    """Bring ``refspec`` into the mirror, under the repository's lock. Raises ``GitFailed``, ``Transient``."""
    options = [f"--upload-pack={_UPLOAD}"] if remote.local else []
    await git.run_remote(
        *("fetch", "--quiet", "--no-write-fetch-head", "--no-tags", "--prune", "--update-shallow", *options),
        *("--no-recurse-submodules", "--", remote.url, refspec),
        place=Place(git_dir=mirror),
        configuration=remote.configuration,
    )


async def push(
    git: Git,
    remote: Remote,
    mirror: Path,
    commit: str,
    branch: str,
    *,
    replacing: str | None,
    into_work_tree: bool = False,
) -> None:
    """Make ``branch`` of the remote stand at ``commit``.

    ``replacing`` is the commit that may be lost by it ("" for none: the branch must be new); None allows only what
    adds to the branch. Raises ``BranchMoved``, ``Permanent`` (``push-refused``, ``repository-*``), ``Transient``.
    """
    options = [] if replacing is None else [f"--force-with-lease=refs/heads/{branch}:{replacing}"]
    if remote.local:
        options.append(f"--receive-pack={_RECEIVE_INTO_WORK_TREE if into_work_tree else _RECEIVE}")
    try:
        await git.run_remote(
            *("push", "--porcelain", "--no-verify", *options, "--", remote.url, f"{commit}:refs/heads/{branch}"),
            place=Place(git_dir=mirror),
            configuration=remote.configuration,
        )
    except GitFailed as error:
        rejected = [line for line in error.stdout.splitlines() if line.startswith("!")]
        if not rejected:
            raise refusal(error, f"{branch} cannot be pushed to {remote.url}") from error
        reason = rejected[0].split("\t")[-1]
        moved = f"{branch} of {remote.url} was changed by others while it was being pushed"
        if error.lock_file is not None:
            moved = f"{branch} of {remote.url} is being written by another git; "
            moved += f"if by none that lives, remove {error.lock_file}"
        if error.lock_file is not None or _MOVED.search(reason):
            raise BranchMoved(moved) from error
        raise _refused(error, remote, branch, reason) from error


def _refused(error: GitFailed, remote: Remote, branch: str, reason: str) -> Permanent | Transient:
    if "Working directory has" in reason or "Could not update working tree" in reason:
        advice = (
            f"{branch} is checked out in {remote.url} with changes that are not committed: commit or stash them there"
        )
    elif "is currently checked out" in reason:
        advice = f"{branch} is checked out in {remote.url}: switch to another branch there"
    else:
        said = "; ".join(
            line.removeprefix("remote:").strip() for line in error.stderr.splitlines() if "remote:" in line
        )
        advice = f"{remote.url} did not take {branch}" + (f" ({said})" if said else "")
        if "No space left" in said:
            return Transient(f"{advice}. git said: {reason}", delay_seconds=30.0)
    return Permanent(f"{advice}. git said: {reason}", slug="push-refused")


def branch_path(branch: str) -> str:
    """``branch`` as part of a ref name of ours that no other branch's can lie inside of."""
    return quote(branch, safe="")
