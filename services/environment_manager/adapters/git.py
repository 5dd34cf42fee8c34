"""git as a subprocess: one call is one process in a session of its own, with a scrubbed environment and a time limit.

No prompt can appear: there is no terminal, no askpass program and no standard input. ``GIT_*`` variables of this
process do not reach git. Local commands see no configuration but ours, so that a person's settings (hooks, filters,
``autocrlf``, signing) cannot change what a checkpoint holds; commands that talk to a remote read the person's and the
system's configuration, because proxies, certificates, ssh and credential helpers stand there.

Credentials travel in ``GIT_CONFIG_*`` variables only: never in an argument, which every user of the host can list,
and never in a file, which an agent could read.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from events.errors import CairnError, Permanent, Transient
from infra.subprocesses import ended

LOCAL_TIMEOUT_SECONDS = 120.0
REMOTE_TIMEOUT_SECONDS = 900.0
STDERR_LIMIT_BYTES = 64 * 1024
DISK_DELAY_SECONDS = 30.0
NETWORK_DELAY_SECONDS = 5.0

IDENTITY = {"GIT_AUTHOR_NAME": "Cairn", "GIT_AUTHOR_EMAIL": "cairn@localhost"} | {
    "GIT_COMMITTER_NAME": "Cairn",
    "GIT_COMMITTER_EMAIL": "cairn@localhost",
}

_CONFIGURATION = (
    ("core.hooksPath", "/dev/null"),
    # Everything in a mirror that matters hangs on a ref, but workspaces borrow its objects: nothing may prune them.
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("safe.directory", "*"),
    ("core.quotePath", "false"),
    ("core.fsmonitor", "false"),
    ("advice.addEmbeddedRepo", "false"),
    # An event that names a checkpoint survives power loss, so the checkpoint does too; one flush per command.
    ("core.fsync", "committed"),
    ("core.fsyncMethod", "batch"),
)
_LOCAL_ENVIRONMENT = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_ATTR_NOSYSTEM": "1"}
_ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS_REQUIRE": "never",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C",
    **IDENTITY,
}

_LOCK_FILE = re.compile(r"Unable to create '(.+?\.lock)': File exists")
_PASSWORD = re.compile(r"(://[^/@\s:]*):[^/@\s]+@")


class GitFailed(CairnError):
    """git ended with an exit code that its caller did not expect; ``stderr`` is what it said, without passwords."""

    def __init__(self, command: str, code: int, stdout: str, stderr: str) -> None:
        super().__init__(f"git {command} ended with {code}: {stderr.strip() or stdout.strip()}")
        self.command = command
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def lock_file(self) -> Path | None:
        """The lock file that stood in the way, if that was it."""
        match = _LOCK_FILE.search(self.stderr)
        return Path(match[1]) if match else None


class Answer(msgspec.Struct, frozen=True):
    """``truncated`` says that git had more to print than the limit; it was ended then and ``code`` is 0. Names in
    ``stderr`` are what ``os.fsdecode`` makes of them."""

    code: int
    stdout: bytes
    stderr: str
    truncated: bool = False

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace").strip()


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a command works on. All of it is given by name: what an agent wrote into ``.git`` is not consulted."""

    git_dir: Path
    work_tree: Path | None = None
    index: Path | None = None

    def environment(self) -> dict[str, str]:
        variables = {"GIT_DIR": str(self.git_dir)}
        if self.work_tree is not None:
            variables["GIT_WORK_TREE"] = str(self.work_tree)
        if self.index is not None:
            variables["GIT_INDEX_FILE"] = str(self.index)
        return variables


class Git:
    """Runs git. ``program`` is its name or path."""

    def __init__(self, program: str = "git") -> None:
        self._program = program

    async def run(
        self,
        *arguments: str,
        place: Place | None = None,
        stdin: bytes = b"",
        variables: Mapping[str, str] = {},
        accept: Collection[int] = (0,),
        keep_open: Sequence[int] = (),
        limit_bytes: int | None = None,
    ) -> Answer:
        """Run a command that touches only this host.

        ``keep_open`` are descriptors that git inherits: a lock on one is held until git too has ended. Raises
        ``GitFailed`` for an exit code outside ``accept``, ``Transient`` past the time limit.
        """
        environment = _LOCAL_ENVIRONMENT | (place.environment() if place else {}) | dict(variables)
        return await self._run(
            arguments,
            environment,
            _CONFIGURATION,
            cwd=place.work_tree if place else None,
            stdin=stdin,
            accept=accept,
            keep_open=keep_open,
            limit_bytes=limit_bytes,
            timeout_seconds=LOCAL_TIMEOUT_SECONDS,
        )

    async def run_remote(
        self,
        *arguments: str,
        place: Place | None = None,
        configuration: Sequence[tuple[str, str]] = (),
        accept: Collection[int] = (0,),
    ) -> Answer:
        """Run a command that talks to a remote; ``configuration`` carries its credentials. Raises as ``run``.

        git inherits no lock here: a credential daemon that it starts would hold it for ever.
        """
        return await self._run(
            arguments,
            place.environment() if place else {},
            (*_CONFIGURATION, *configuration),
            accept=accept,
            timeout_seconds=REMOTE_TIMEOUT_SECONDS,
        )

    async def _run(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        configuration: Sequence[tuple[str, str]],
        *,
        cwd: Path | None = None,
        stdin: bytes = b"",
        accept: Collection[int],
        keep_open: Sequence[int] = (),
        limit_bytes: int | None = None,
        timeout_seconds: float,
    ) -> Answer:
        try:
            process = await asyncio.create_subprocess_exec(
                self._program,
                *arguments,
                cwd=cwd,
                env={**_scrubbed(os.environ), **_ENVIRONMENT, **environment, **_configured(configuration)},
                stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # no terminal to prompt on, and one group to end
                pass_fds=tuple(keep_open),
            )
        except FileNotFoundError as error:
            raise _not_started(self._program, cwd) from error
        try:
            async with asyncio.timeout(timeout_seconds):
                stdout, stderr, truncated = await _communicate(process, stdin, limit_bytes)
        except TimeoutError as error:
            message = f"git {arguments[0]} did not end within {timeout_seconds:g} seconds"
            raise Transient(message, delay_seconds=NETWORK_DELAY_SECONDS) from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await ended(process)
        code = 0 if truncated else process.returncode or 0
        if code not in accept:
            said = _PASSWORD.sub(r"\1:***@", stderr.decode(errors="replace"))
            raise GitFailed(arguments[0], code, stdout.decode(errors="replace"), said)
        return Answer(code, stdout, os.fsdecode(stderr), truncated)


def _scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith("GIT_")}


def _configured(configuration: Sequence[tuple[str, str]]) -> dict[str, str]:
    variables = {"GIT_CONFIG_COUNT": str(len(configuration))}
    for number, (key, value) in enumerate(configuration):
        variables[f"GIT_CONFIG_KEY_{number}"] = key
        variables[f"GIT_CONFIG_VALUE_{number}"] = value
    return variables


def _not_started(program: str, cwd: Path | None) -> Permanent:
    if cwd is not None and not cwd.is_dir():
        return Permanent(f"the workspace {cwd} is gone", slug="workspace-broken")
    return Permanent(f"the program {program!r} was not found: install git 2.38 or later", slug="git-missing")


async def _communicate(
    process: asyncio.subprocess.Process, stdin: bytes, limit_bytes: int | None
) -> tuple[bytes, bytes, bool]:
    """Feed standard input, read both outputs to their end, and reap; more than the limit ends the process."""
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.TaskGroup() as group:
        group.create_task(_feed(process.stdin, stdin))
        errors = group.create_task(_read(process.stderr, STDERR_LIMIT_BYTES))
        stdout = await _read(process.stdout, limit_bytes, drain=False)
        truncated = limit_bytes is not None and len(stdout) > limit_bytes
        if truncated:
            with suppress(ProcessLookupError):  # It had little more to print, and has ended.
                os.killpg(process.pid, signal.SIGKILL)
    await ended(process)
    return stdout[:limit_bytes], errors.result(), truncated


async def _feed(stream: asyncio.StreamWriter | None, data: bytes) -> None:
    if stream is None:
        return
    with suppress(BrokenPipeError, ConnectionResetError):  # git says on standard error why it stopped reading
        stream.write(data)
        await stream.drain()
    stream.close()


async def _read(stream: asyncio.StreamReader, limit_bytes: int | None, *, drain: bool = True) -> bytes:
    """What comes until the end; past the limit the rest is dropped (``drain``) or left unread."""
    data = bytearray()
    while chunk := await stream.read(65536):
        if limit_bytes is None or len(data) <= limit_bytes:
            data += chunk
        elif not drain:
            break
    return bytes(data)


_KINDS: tuple[tuple[str, str, str], ...] = (
    # What git, ssh or curl says (LC_ALL=C) → slug, or "" for what trying again may help → what to do about it.
    (r"No space left on device|Disk quota exceeded", "", "no space is left; free some"),
    (r"Cannot allocate memory|Resource temporarily unavailable|unable to create thread", "", "the host is short of it"),
    (
        r"cannot lock ref 'refs/remotes/[^']*': (is at \w+ but|reference already exists|unable to resolve)",
        "",
        "another git changed it at the same time",
    ),
    (
        r"could not read (Username|Password)|Authentication failed|Permission denied \(|Host key verification failed|"
        r"terminal prompts disabled|returned error: 40[13]|[Ii]nvalid (credentials|username)",
        "repository-needs-credentials",
        "give this host access: a credential helper, an ssh key, or a token for the project",
    ),
    (
        r"does not appear to be a git repository|[Rr]epository .*not found|not a git repository|"
        r"returned error: 404|repository .* does not exist|does not exist",
        "repository-not-found",
        "check the path or URL",
    ),
    (
        r"Could not resolve|Connection (refused|timed out|reset|closed)|[Tt]imed out|unable to access|early EOF|"
        r"hung up unexpectedly|returned error: (429|5\d\d)|Network is unreachable|No route to host|RPC failed|"
        r"Could not read from remote",
        "",
        "the remote cannot be reached",
    ),
    (r"^usage: git|unknown option|is not a git command", "git-too-old", "git 2.38 or later is needed"),
)


def refusal(error: GitFailed, doing: str) -> Permanent | Transient:
    """What a failure of git means: ``Transient`` where trying again may help, else ``Permanent`` with its slug.

    ``doing`` says what was tried, in the reader's words.
    """
    said = _last_lines(error.stderr) or f"git ended with {error.code}"
    for pattern, slug, advice in _KINDS:
        if re.search(pattern, error.stderr, re.MULTILINE):
            message = f"{doing}: {advice}. git said: {said}"
            return Permanent(message, slug=slug) if slug else Transient(message, delay_seconds=_delay(pattern))
    if error.lock_file is not None:
        return Transient(f"{doing}: {said}", delay_seconds=1.0)
    return Permanent(f"{doing}: {said}", slug="git-refused")


def _delay(pattern: str) -> float:
    return DISK_DELAY_SECONDS if "space" in pattern else NETWORK_DELAY_SECONDS


def _last_lines(stderr: str, count: int = 8) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return "; ".join(lines[-count:])
