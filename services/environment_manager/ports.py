"""What the environment-manager needs from git and from processes. ``adapters/`` gives it."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from events.sandboxes import Sandbox
from events.tools import Arguments
from infra.redaction import Redactor
from services.environment_manager.compose.health import Seen

# Executes a file tool in the workspace at that path, and answers with what the agent is shown. Raises ``ToolRefused``.
FileTools = Callable[[Path, Arguments], Awaitable[str]]

# Takes a piece of what a call prints, with its offset; the next piece is read when it is done with this one.
OnOutput = Callable[[int, bytes], Awaitable[None]]


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace that stands. ``commit`` and ``tree`` are its first checkpoint."""

    workspace: Path
    base_branch: str
    base_commit: str
    commit: str
    tree: str


class Checkpoint(msgspec.Struct, frozen=True):
    """A commit on a hidden ref that holds the whole workspace, and its tree."""

    commit: str
    tree: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """``tree`` is what the workspace holds now, ``head`` the commit that is kept as its last checkpoint (empty where
    there is none), ``diff`` the unified diff from the checkpoint that was asked for to the workspace."""

    tree: str
    head: str
    diff: str = ""


class Kept(msgspec.Struct, frozen=True):
    """What keeps the checkpoints of an environment in one repository of this host: the refs, each with its commit."""

    environment_id: str
    repository: str
    refs: tuple[tuple[str, str], ...]


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A branch that the remote took. ``diff`` is the unified diff from the merge base, with git's own wording."""

    commit: str
    base_branch: str
    base_commit: str
    remote: str
    diff: str
    files_changed: int
    lines_added: int
    lines_removed: int


class Workspaces(Protocol):
    """Working trees, one per environment, made from one bare mirror per repository under a lock per repository.

    Every method raises ``Permanent`` with a slug where git refuses for good (``repository-not-found``,
    ``repository-empty``, ``repository-needs-credentials``, ``branch-not-found``, ``merge-conflict``,
    ``push-refused``, ``head-moved``, ``nothing-to-publish``, ``checkpoint-missing``, ``workspace-broken``,
    ``workspace-unreadable``) and ``Transient`` where trying again may help (network, lock, no space).
    """

    async def prepare(
        self, environment_id: str, repository_url: str, *, base_branch: str, bases: Sequence[str], restore: str = ""
    ) -> Prepared:
        """Make the workspace; where it stands already, answer what stands. ``bases`` are branches or commits merged
        onto the base branch. With ``restore`` the workspace shows that checkpoint instead."""

    async def checkpoint(self, environment_id: str, message: str) -> Checkpoint:
        """Record the workspace as it is. Where nothing changed since the last one, answer that one.

        Branches, HEAD and the staged set of the worktree stay untouched.
        """

    async def tree(self, environment_id: str) -> str:
        """The tree of the workspace as it is now, without recording it."""

    async def compare(self, environment_id: str, checkpoint: Checkpoint) -> Comparison:
        """The workspace as it is beside a checkpoint, without recording it."""

    def stands(self, environment_id: str) -> bool:
        """Whether the workspace is there. It looks at two names on the disk only."""

    async def vanished(self) -> list[str]:
        """The ids of environments that had a directory on this host and were not removed by ``remove``."""

    async def restore(self, environment_id: str, commit: str) -> None:
        """Make the workspace show ``commit``; files that it does not have are removed (ignored files stay)."""

    async def publish(
        self, repository_url: str, commit: str, *, branch: str, message: str, earlier: Collection[str] = ()
    ) -> Published:
        """Push one commit with the tree of checkpoint ``commit``, on top of what its workspace began with, as
        ``branch`` (idempotent). Needs no workspace, only the checkpoint. What stands there may be replaced where it
        was pushed from here before, or is one of ``earlier``."""

    async def merge(self, repository_url: str, *, base: str, head: str, message: str, expected: str = "") -> str:
        """Merge branch ``head`` into ``base`` on the remote; answer the merge commit. Where it is merged already,
        answer the commit that brought it in. With ``expected``, ``head`` must stand at that commit."""

    async def diff(self, repository_url: str, older: str, newer: str) -> str:
        """The unified diff between two checkpoints or commits of the mirror, at most 4 MiB."""

    async def checkout(self, repository_url: str, commit: str, directory: Path) -> None:
        """Write the files of a checkpoint into ``directory``, which is absent or empty."""

    async def export(self, repository_url: str, environment_id: str) -> bytes:
        """Every checkpoint of the environment, with all that they stand upon, as a git bundle."""

    async def bundle(self, repository_url: str, commits: Sequence[str], known: Sequence[str]) -> bytes:
        """Checkpoints and those before them as a pack of git objects, without what comes with the commits ``known``.
        Raises ``Permanent`` (``bundle-too-large``) too."""

    async def unbundle(
        self, environment_id: str, repository_url: str, commit: str, base_commit: str, packs: AsyncIterable[bytes]
    ) -> None:
        """Bring ``commit`` to this host from the packs of a chain, the oldest first, as the environment's last
        checkpoint; nothing, and no pack is read, where it is here. ``base_commit`` is fetched from the remote."""

    async def remove(self, environment_id: str) -> None:
        """Remove the worktree; checkpoints stay. Idempotent."""

    async def kept(self) -> list[Kept]:
        """What keeps the checkpoints on this host, of environments that have no directory here any more too."""

    async def forget(self, kept: Kept) -> bool:
        """Remove these refs, all or none: raises ``Permanent`` (``git-refused``) where one of them is not as it was
        when they were read. False where the environment has a directory here: then they stay."""

    async def existing(self) -> list[str]:
        """The ids of all environments that have a directory on this host."""

    def directory(self, environment_id: str) -> Path:
        """Where the environment's files lie: ``workspace/`` and, beside it, what the shim keeps."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """``idle_seconds`` ends a process that prints nothing for so long; 0 means no limit. ``grace_seconds`` is what it
    has after SIGTERM; where it is interrupted, 3 s at most."""

    seconds: float = 600.0
    idle_seconds: float = 0.0
    grace_seconds: float = 20.0
    output_bytes: int = 1_073_741_824


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended. ``cause`` is exited, signalled, timed-out, idle, output-limit, out-of-memory, interrupted or
    not-found (then ``detail`` says why it could not be started)."""

    cause: str
    code: int | None
    duration_ms: int
    output_bytes: int
    detail: str = ""


class Processes(Protocol):
    """Processes under a shim: a small supervisor, one per environment, that outlives the environment-manager."""

    async def ready(self, environment_id: str) -> None:
        """Start the environment's shim, or adopt the one that runs. Idempotent."""

    async def start(
        self, environment_id: str, call_id: str, argv: Sequence[str], *, env: Mapping[str, str], limits: Limits
    ) -> None:
        """Start a process in the workspace. A call id that the shim knows already is not started again."""

    async def wait(self, environment_id: str, call_id: str, on_output: OnOutput | None = None) -> Exit | None:
        """Wait for the end of a process; ``on_output(offset, data)`` sees what it prints (standard output and error
        in one, from the first byte) as it comes. None where the process is unknown: it and its shim are gone."""

    async def output(self, environment_id: str, call_id: str, redactor: Redactor, *, limit_bytes: int) -> bytes:
        """What the call printed, redacted: all of it, or its head and its tail around a line that says how much is
        left out."""

    async def interrupt(self, environment_id: str, call_id: str) -> None:
        """SIGTERM to the process tree, grace, SIGKILL. Idempotent."""

    async def known(self, environment_id: str) -> dict[str, bool]:
        """The calls that the environment's files tell of: call id → whether it still runs."""

    def inside(self, environment_id: str) -> Path:
        """The environment's directory as its processes see it."""

    async def close(self, environment_id: str) -> None:
        """End every process of the environment, then its shim, leaving nothing behind. Idempotent."""


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a command in a container printed, and its exit code: None where it did not end in time."""

    exit_code: int | None
    text: str


class Sandboxes(Protocol):
    """Where environments live: in a working tree of this host, or in a container of their own."""

    async def isolation(self, asked: str) -> str:
        """``container`` or ``worktree``, by what was asked and what is here. Raises ``Permanent`` (``engine-missing``)
        where a container is wanted and no engine answers."""

    async def furnish(self, environment_id: str, sandbox: Sandbox, repository_url: str) -> str:
        """Give an environment whose workspace stands a container, which its next process starts; answers the image.
        One that has a container keeps it. Raises ``Permanent`` (``image-missing``, ``image-unbuildable``,
        ``engine-refused``) and ``Transient``."""

    async def sweep(self, living: Callable[[], Awaitable[Collection[str]]]) -> list[str]:
        """Remove the containers of this installation that serve none of the ``living`` environments: their names."""

    async def close(self) -> None: ...


class Installations(Protocol):
    """What this installation, and others of its tenant that use the same engine, have there."""

    async def keep(self) -> list[str]:
        """Show that this installation is here, and remove what one has left that was not for long: the names of that.
        Raises ``Transient`` and ``Permanent`` where the engine does not answer or refuses."""

    async def close(self) -> None: ...


class Systems(Protocol):
    """Composed systems, one per environment. Every method raises ``Permanent`` with a slug where Compose or the engine
    refuses (``compose-file-missing``, ``compose-file-invalid``, ``build-failed``, ``image-unavailable``,
    ``compose-failed``, ``timed-out``, ``compose-unavailable``) and ``Transient`` where no engine answers."""

    def project(self, environment_id: str) -> str:
        """The name of the Compose project of the environment."""

    def labels(self) -> dict[str, str]:
        """Those that everything of every system here carries."""

    async def model(
        self, workspace: Path, compose_file: str, project: str, variables: Mapping[str, str]
    ) -> dict[str, Any]:
        """What Compose makes of a file, with every profile and with ``variables`` in it."""

    async def up(
        self,
        project: str,
        model: dict[str, Any],
        *,
        workspace: Path,
        variables: Mapping[str, str],
        build: bool,
        seconds: float,
        say: Callable[[str], Awaitable[None]],
    ) -> None:
        """Start exactly ``model``, or bring what runs in line with it, without waiting for its health."""

    async def down(
        self, environment_id: str, *, volumes: bool, say: Callable[[str], Awaitable[None]] | None = None
    ) -> None:
        """Stop and remove everything of the system; with ``volumes`` also its data and its images. Idempotent."""

    async def containers(self, environment_id: str) -> list[Seen]:
        """The containers of the system as they are now, by service."""

    async def logs(self, container: str, lines: int) -> str:
        """The last lines that a container printed."""

    async def restart(self, container: str) -> None:
        """End it and start it; one that stands still is started."""

    async def unpause(self, container: str) -> None: ...

    async def execute(self, container: str, command: str, seconds: float) -> Ran:
        """Run a command line with the container's ``sh``."""

    async def join(self, environment_id: str) -> bool:
        """Let the sandbox of the environment reach the services by their names. False where it has none."""

    async def leftover(self) -> set[str]:
        """The environments of this installation that the engine holds anything of; none where there is no engine."""

    async def close(self) -> None: ...

    def free_port(self) -> int:
        """A port of 127.0.0.1 that nobody has at this moment."""

    def is_free(self, port: int) -> bool: ...
