"""The log, the content and the checkpoints of an imported bundle, behind the ports that this installation's have."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from pathlib import Path

from events.content import digest_of
from events.envelope import Envelope, Recorded
from events.environment import Environment
from events.errors import CommandRejected, Permanent
from infra.ports import Following
from services.gateway.bundle import Bundle, BundleUnusable, Manifest

BATCH = 1000
GIT_SECONDS = 120.0
DIFF_LIMIT_BYTES = 4 * 1024 * 1024


class ArchivedLog:
    """``EventLog`` of a bundle, with the sequences of the log that it comes from."""

    def __init__(self, bundle: Bundle) -> None:
        self._manifest = bundle.manifest
        self._records = bundle.records()

    @property
    def tenant(self) -> str:
        return self._manifest.tenant

    async def append(self, envelope: Envelope, *, expected: int, of_kind: bool = False) -> int:
        raise _read_only()

    async def load(self, entity: str, id: str, *, after: int = 0) -> list[Recorded]:
        wanted = (entity, id)
        return [
            record
            for record in self._records
            if (record.envelope.entity, record.envelope.entity_id) == wanted and record.sequence > after
        ]

    async def last(self, entity: str, id: str) -> Recorded | None:
        return next(reversed(await self.load(entity, id)), None)

    async def last_sequence(self) -> int:
        return self._records[-1].sequence if self._records else 0

    async def created_at(self) -> datetime:
        return self._manifest.exported_at

    async def replay(
        self, *, after: int = 0, until: int | None = None, entities: Sequence[str] = ()
    ) -> AsyncIterator[list[Recorded]]:
        found = [
            record
            for record in self._records
            if record.sequence > after
            and (until is None or record.sequence <= until)
            and (not entities or record.envelope.entity in entities)
        ]
        for start in range(0, len(found), BATCH):
            yield found[start : start + BATCH]

    async def follow(
        self, deliver: Callable[[Recorded], None], *, after: int, entities: Sequence[str] = ()
    ) -> Following:
        raise _read_only()


class ArchivedContent:
    """``ContentStore`` of a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    async def put(self, data: bytes) -> str:
        raise _read_only()

    async def get(self, digest: str) -> bytes | None:
        name = f"content/{digest}"
        if name not in self._bundle.manifest.files:
            return None
        data = await asyncio.to_thread(self._bundle.file, name)
        return data if digest_of(data) == digest else None


class ArchivedCheckpoints:
    """``Checkpoints`` of a bundle: its git bundles, unpacked into a repository of their own."""

    def __init__(self, repository: Path, manifest: Manifest) -> None:
        self._repository = repository
        self._manifest = manifest

    async def diff(self, environment: Environment, older: str, newer: str) -> bytes:
        options = ("--no-color", "--no-ext-diff", "--no-textconv", "--find-renames")
        data = await self._git(environment, "diff", *options, older, newer, "--")
        if len(data) <= DIFF_LIMIT_BYTES:
            return data
        return data[:DIFF_LIMIT_BYTES] + b"\n[the diff is longer; the rest is left out]\n"

    async def pack(self, environment: Environment, commit: str) -> bytes:
        return await self._git(environment, "archive", "--format=tar.gz", commit)

    async def check(self, environment: Environment, commit: str) -> None:
        await self._git(environment, "cat-file", "-e", f"{commit}^{{commit}}")

    async def bundle(self, environment: Environment) -> bytes:
        raise _read_only()

    async def _git(self, environment: Environment, *arguments: str) -> bytes:
        try:
            return await asyncio.to_thread(_git, self._repository, *arguments)
        except BundleUnusable as error:
            missing = "; ".join(self._manifest.missing) or str(error)
            detail = f"The bundle does not hold that checkpoint of {environment.id} ({missing})."
            raise CommandRejected(detail, slug="checkpoint-missing") from error


def unpack_checkpoints(bundle: Bundle, repository: Path) -> None:
    """Make a bare repository of the bundle's checkpoints. Raises ``BundleUnusable`` where one is damaged."""
    _git(repository, "init", "--quiet", "--bare", "--template=", str(repository))
    attributes = repository / "info" / "attributes"
    attributes.parent.mkdir(exist_ok=True)
    # What is packed is the workspace as it was, not what its .gitattributes would make of it.
    attributes.write_text("* -export-ignore -export-subst\n", encoding="utf-8")
    for name in bundle.manifest.files:
        if name.startswith("checkpoints/"):
            with tempfile.NamedTemporaryFile(dir=repository, suffix=".bundle") as file:
                file.write(bundle.file(name))
                file.flush()
                _git(repository, "fetch", "--quiet", file.name, "+refs/*:refs/*")


def _git(repository: Path, *arguments: str) -> bytes:
    """What git prints. The settings of people and systems are left out, and a bundle can name no programs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C"}
    if repository.is_dir():
        environment["GIT_DIR"] = str(repository)
    try:
        done = subprocess.run(
            ["git", "-c", "core.quotePath=false", *arguments],
            env=environment,
            capture_output=True,
            timeout=GIT_SECONDS,
            check=True,
        )
    except FileNotFoundError as error:
        message = "git is not installed where the gateway runs, so its checkpoints cannot be read"
        raise Permanent(message, slug="git-missing") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        message = f"git {arguments[0]} failed: {said[-1] if said else 'it said nothing'}"
        raise BundleUnusable(message) from error
    return done.stdout


def _read_only() -> Permanent:
    return Permanent("an imported bundle can only be read", slug="read-only")
