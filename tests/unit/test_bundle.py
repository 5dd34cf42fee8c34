"""Bundles of runs: what is written is read, and what cannot be read is told apart."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from events.content import Stored, digest_of
from events.envelope import Envelope, Recorded
from events.environment import ENVIRONMENT
from events.run import RUN, ModelResponded
from services.gateway import bundle
from services.gateway.answers import Problem
from services.gateway.archives import Archives
from services.gateway.bundle import Bundle, BundleUnusable, Manifest
from tests.unit.environment_twins import PREPARED
from tests.unit.examples import NOW
from tests.unit.test_forks import RUN_ID, done, started

LONG = b"a long text"
LARGE = msgspec.structs.replace(done(f"{RUN_ID}-c1"), content=Stored(digest_of(LONG), len(LONG)))


def recorded(sequence: int, entity: str, id: str, *events: object) -> Recorded:
    return Recorded(sequence, Envelope(f"d{sequence}", "acme", entity, id, NOW, events))  # type: ignore[arg-type]


RECORDS = [
    recorded(4, RUN.name, RUN_ID, started()),
    recorded(7, ENVIRONMENT.name, "shop-1-development", PREPARED),
    recorded(9, RUN.name, RUN_ID, ModelResponded(step=1, text="I look.")),
    recorded(12, ENVIRONMENT.name, "shop-1-development", LARGE),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "bundle.zip"
    manifest = Manifest(
        format=bundle.FORMAT,
        schema=bundle.SCHEMA,
        cairn="1.2",
        tenant="acme",
        run=RUN_ID,
        task="shop-1",
        exported_at=NOW,
        missing=("the checkpoints of shop-1-development: host away",),
    )
    bundle.write(path, manifest, reversed(RECORDS), {f"content/{digest_of(LONG)}": LONG})
    return path


def changed(path: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The bundle with its files changed."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def with_manifest(**fields: object) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        manifest = msgspec.json.decode(files[bundle.MANIFEST])
        files[bundle.MANIFEST] = msgspec.json.encode({**manifest, **fields})

    return change


def test_what_is_written_is_read(path: Path) -> None:
    """Decisions keep the sequences of their log, in its order; contents come back whole."""
    read = Bundle(path)
    assert read.check() == len(RECORDS)
    assert read.records() == RECORDS
    assert read.file(f"content/{digest_of(LONG)}") == LONG
    assert bundle.contents_of(RECORDS) == {digest_of(LONG)}


def damaged(files: dict[str, bytes]) -> None:
    files[bundle.EVENTS] = files[bundle.EVENTS].replace(b"I look.", b"I lied.")


def cut(files: dict[str, bytes]) -> None:
    del files[f"content/{digest_of(LONG)}"]


def escaping(files: dict[str, bytes]) -> None:
    manifest = msgspec.json.decode(files[bundle.MANIFEST])
    manifest["files"]["../../etc/passwd"] = {"sha256": "", "size_bytes": 0}
    files[bundle.MANIFEST] = msgspec.json.encode(manifest)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damaged, "is not what its manifest says"),
        (cut, "cannot be read"),
        (escaping, "is no part of a bundle"),
        (with_manifest(schema=2), "import it with a newer version"),
        (with_manifest(format="something-else"), "is no bundle of a run"),
        (with_manifest(run=7), "the manifest of the bundle is not valid"),
    ],
)
def test_what_cannot_be_read_is_told_apart(path: Path, change: Callable[[dict[str, bytes]], None], said: str) -> None:
    """Damaged, incomplete, dangerous, newer and foreign files each have their own message."""
    with pytest.raises(BundleUnusable, match=said):
        Bundle(changed(path, change)).check()


@pytest.mark.parametrize("data", [b"", b"no zip at all", b"PK\x03\x04 cut off"])
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    """Any other file is refused, not unpacked."""
    path = tmp_path / "some.file"
    path.write_bytes(data)
    with pytest.raises(BundleUnusable, match="no bundle of a run, or it is damaged"):
        Bundle(path)


def test_event_of_a_newer_version(path: Path) -> None:
    """An event that this version does not know names the version that made the bundle."""

    def change(files: dict[str, bytes]) -> None:
        data = files[bundle.EVENTS].replace(b'"ModelResponded"', b'"ModelMusedAloud"')
        files[bundle.EVENTS] = data
        manifest = msgspec.json.decode(files[bundle.MANIFEST])
        manifest["files"][bundle.EVENTS] = {"sha256": digest_of(data), "size_bytes": len(data)}
        files[bundle.MANIFEST] = msgspec.json.encode(manifest)

    with pytest.raises(BundleUnusable, match=r"made by Cairn 1\.2"):
        Bundle(changed(path, change)).check()


async def chunks(path: Path) -> AsyncIterator[bytes]:
    yield path.read_bytes()


async def test_imported_once_and_only_read(path: Path, tmp_path: Path) -> None:
    """The same bundle again changes nothing, another one needs another name, and nothing can be appended."""
    archives = Archives(tmp_path / "imports")
    first = await archives.add(chunks(path), "")
    assert (first.name, first.decisions, first.missing) == (RUN_ID, 4, first.missing)
    assert await archives.add(chunks(path), "") == first
    other = changed(path, with_manifest(tenant="other"))
    with pytest.raises(Problem) as taken:
        await archives.add(chunks(other), "")
    assert taken.value.slug == "name-taken"
    assert (await archives.add(chunks(other), "second")).tenant == "other"
    assert [item.name for item in archives.list()] == ["second", RUN_ID]
    archive = await archives.open("second")
    assert await archive.log.load(RUN.name, RUN_ID, after=4) == [RECORDS[2]]
    assert [record.sequence async for batch in archive.log.replay(until=9) for record in batch] == [4, 7, 9]
    assert await archive.content.get(digest_of(LONG)) == LONG
    with pytest.raises(Exception, match="can only be read"):
        await archive.log.append(RECORDS[0].envelope, expected=0)


async def test_refused_bundle_leaves_nothing(tmp_path: Path) -> None:
    """Neither a folder nor an import."""
    archives = Archives(tmp_path / "imports")
    junk = tmp_path / "junk"
    junk.write_bytes(b"junk")
    with pytest.raises(Problem) as refused:
        await archives.add(chunks(junk), "")
    assert (refused.value.status, refused.value.slug) == (422, "bundle-unusable")
    assert list((tmp_path / "imports").iterdir()) == []


@pytest.mark.parametrize("name", ["../up", ".hidden", "a/b", "x" * 300])
async def test_names_that_lead_elsewhere(path: Path, tmp_path: Path, name: str) -> None:
    """An import's name can be no path."""
    with pytest.raises(Problem) as refused:
        await Archives(tmp_path / "imports").add(chunks(path), name)
    assert refused.value.slug == "invalid"
