"""The bundle of a run: a zip archive that carries what is needed to look at the run elsewhere.

=========================== =================================================================================
file                        what it holds
=========================== =================================================================================
manifest.json               the format and its version, where the bundle comes from, every other file with its
                            SHA-256 and size, and what could not be packed
events.jsonl                one decision a line: its sequence in the log that it comes from, and the envelope
content/<digest>            every payload that an event only names
checkpoints/<id>.bundle     the checkpoints of environment <id>, with the history they stand upon: a git bundle
=========================== =================================================================================

It holds the run, its environment and its task, and the same of the runs that it was forked from. Reading one trusts
nothing: names are checked, sizes are bounded, digests are compared, and every event must decode.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from events.codec import decode_event, encode
from events.content import Stored
from events.envelope import Recorded
from events.environment import CheckpointBundled
from events.errors import CairnError, UndecodableMessage

FORMAT = "cairn-run"
SCHEMA = 1
LIMIT_BYTES = 4 * 1024**3
MANIFEST_LIMIT_BYTES = 64 * 1024**2

MANIFEST = "manifest.json"
EVENTS = "events.jsonl"
_NAME = re.compile(r"events\.jsonl|content/[0-9a-f]{64}|checkpoints/[A-Za-z0-9][A-Za-z0-9_-]{0,199}\.bundle")

# What zipfile raises for archives that are damaged, cut off, encrypted or packed in some other way.
_DAMAGED = (zipfile.BadZipFile, zlib.error, KeyError, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


class BundleUnusable(CairnError):
    """The file is no bundle that this version can read; the message says why."""


class Packed(msgspec.Struct, frozen=True):
    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``missing`` says in words what could not be packed."""

    format: str
    schema: int
    cairn: str
    tenant: str
    run: str
    task: str
    exported_at: datetime
    files: dict[str, Packed] = {}
    missing: tuple[str, ...] = ()


class _Line(msgspec.Struct, frozen=True):
    sequence: int
    envelope: msgspec.Raw


def write(path: Path, manifest: Manifest, records: Iterable[Recorded], files: dict[str, bytes]) -> None:
    """Write a bundle of ``records`` and ``files`` (name → data); the manifest is completed with what it holds."""
    lines = (
        encode(_Line(record.sequence, msgspec.Raw(encode(record.envelope)))) + b"\n"
        for record in sorted(records, key=lambda record: record.sequence)
    )
    held = {EVENTS: b"".join(lines), **files}
    packed = {name: Packed(hashlib.sha256(data).hexdigest(), len(data)) for name, data in held.items()}
    described = msgspec.structs.replace(manifest, files=packed)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(MANIFEST, msgspec.json.format(encode(described)))
        for name, data in held.items():
            archive.writestr(name, data)


def contents_of(records: Iterable[Recorded]) -> set[str]:
    """The digests of the payloads that the events name. Checkpoints kept for other hosts are packed otherwise."""
    return {
        stored.digest
        for record in records
        for event in record.envelope.events
        if not isinstance(event, CheckpointBundled)
        for stored in _stored(event)
    }


def _stored(value: Any) -> Iterator[Stored]:
    if isinstance(value, Stored):
        yield value
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _stored(getattr(value, name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _stored(item)


class Bundle:
    """A bundle that is read. Every method raises ``BundleUnusable``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.manifest = self._manifest()

    def check(self) -> int:
        """Read everything once; answer how many decisions there are."""
        for name in self.manifest.files:
            self.file(name)
        return len(self.records())

    def file(self, name: str) -> bytes:
        """What the manifest lists under ``name``, compared with its digest."""
        packed = self.manifest.files[name]
        data = self._read(name, packed.size_bytes)
        if hashlib.sha256(data).hexdigest() != packed.sha256:
            message = f"the file {name} in the bundle is not what its manifest says: the file is damaged."
            raise BundleUnusable(message)
        return data

    def records(self) -> list[Recorded]:
        """The decisions, in the order of the log that they come from."""
        found = []
        for number, line in enumerate(self.file(EVENTS).splitlines(), 1):
            try:
                decoded = msgspec.json.decode(line, type=_Line)
                found.append(Recorded(decoded.sequence, decode_event(bytes(decoded.envelope))))
            except (msgspec.MsgspecError, UndecodableMessage) as error:
                message = (
                    f"decision {number} of the bundle cannot be understood ({error}): it was made by Cairn "
                    f"{self.manifest.cairn}; import it with that version or a newer one."
                )
                raise BundleUnusable(message) from error
        if any(later.sequence <= earlier.sequence for earlier, later in itertools.pairwise(found)):
            message = "the decisions of the bundle are not in the order of their log: the file is damaged."
            raise BundleUnusable(message)
        return found

    def _manifest(self) -> Manifest:
        try:
            raw = msgspec.json.decode(self._read(MANIFEST, MANIFEST_LIMIT_BYTES), type=dict[str, Any])
        except msgspec.MsgspecError as error:
            message = "this is no bundle of a run: its manifest cannot be read."
            raise BundleUnusable(message) from error
        schema = raw.get("schema")
        if raw.get("format") != FORMAT or not isinstance(schema, int):
            message = "this is no bundle of a run: make one with `cairn export RUN`."
            raise BundleUnusable(message)
        if schema > SCHEMA:
            message = (
                f"the bundle has version {schema} (made by Cairn {raw.get('cairn')}), this Cairn reads up to {SCHEMA}: "
                "import it with a newer version."
            )
            raise BundleUnusable(message)
        try:
            manifest = msgspec.convert(raw, Manifest)
        except msgspec.ValidationError as error:
            message = f"the manifest of the bundle is not valid: {error}."
            raise BundleUnusable(message) from error
        strange = next((name for name in manifest.files if not _NAME.fullmatch(name)), None)
        if strange is not None or EVENTS not in manifest.files:
            message = f"the bundle holds {strange!r}, which is no part of a bundle." if strange else "it has no events."
            raise BundleUnusable(message)
        if sum(packed.size_bytes for packed in manifest.files.values()) > LIMIT_BYTES:
            message = f"the bundle is larger than {LIMIT_BYTES} bytes when it is unpacked."
            raise BundleUnusable(message)
        return manifest

    def _read(self, name: str, limit_bytes: int) -> bytes:
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(name) as file:
                return _bounded(file, name, limit_bytes)
        except _DAMAGED as error:
            what = (
                "this is no bundle of a run, or it is damaged"
                if name == MANIFEST
                else f"its file {name} cannot be read"
            )
            message = f"{what} ({error})."
            raise BundleUnusable(message) from error


def _bounded(file: Any, name: str, limit_bytes: int) -> bytes:
    data = io.BytesIO()
    while chunk := file.read(1024**2):
        data.write(chunk)
        if data.tell() > limit_bytes:
            message = f"the file {name} in the bundle is larger than its manifest says: the file is damaged."
            raise BundleUnusable(message)
    return data.getvalue()
