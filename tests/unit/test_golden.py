"""Old messages decode for ever: every version of every message against its golden file, and how shapes are lifted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from events import codec
from events.envelope import CommandEnvelope, Envelope
from events.errors import UndecodableMessage
from events.task import TaskCancelled
from tests.golden.samples import FOLDERS, HERE, decoded, encoded, sample, versions

KINDS = [(folder, name) for folder, kinds in FOLDERS.items() for name in kinds]
FILES = [path for folder, name in KINDS for path in versions(folder, name)]
MAKE = "run `python -m tests.golden.make`"


def read(path: Path) -> object:
    return msgspec.json.decode(path.read_bytes())


@pytest.mark.parametrize(("folder", "name"), KINDS)
def test_every_message_has_a_golden_file_of_today(folder: str, name: str) -> None:
    """The newest version is what is written today, field by field, and decodes to the very value."""
    known = versions(folder, name)
    assert known, f"{name} has no golden file: {MAKE}"
    value = sample(FOLDERS[folder][name])
    assert read(known[-1]) == encoded(value), f"{name} is written otherwise than in {known[-1].name}: {MAKE}"
    assert decoded(folder, name, read(known[-1])) == value


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_version_decodes(path: Path) -> None:
    """And means today what was meant then."""
    expected = path.with_name(path.name.replace(".json", ".expected.json"))
    meant = read(expected if expected.exists() else path)
    assert encoded(decoded(path.parent.name, path.name.split(".")[0], read(path))) == meant


def test_no_golden_file_is_of_a_message_that_is_gone() -> None:
    """A type may get another name, but what was written under the old one has to be lifted to it."""
    files = {path for folder in FOLDERS for path in (HERE / folder).glob("*.json")}
    known = {*FILES, *(path.with_name(path.name.replace(".json", ".expected.json")) for path in FILES)}
    lifted = {path for path in files if path.name.split(".")[0] in codec.UPCASTERS}
    assert files <= known | lifted


# ---- lifting old shapes


@pytest.fixture
def upcasters() -> object:
    """What a test registers is taken back."""
    before = dict(codec.UPCASTERS)
    yield codec.UPCASTERS
    codec.UPCASTERS.clear()
    codec.UPCASTERS.update(before)


def envelope(*events: object) -> bytes:
    return msgspec.json.encode({**encoded(sample(Envelope)), "events": list(events)})


@pytest.mark.usefixtures("upcasters")
def test_old_shape_is_lifted_step_by_step() -> None:
    """From a name that is no longer there, over another one, to today's; what stands beside it is left alone."""

    @codec.upcaster("TaskAborted")
    def to_stopped(message: codec.Json) -> codec.Json:
        return {"type": "TaskStopped", "why": message["because"]}

    @codec.upcaster("TaskStopped")
    def to_cancelled(message: codec.Json) -> codec.Json:
        return {"type": "TaskCancelled", "reason": message["why"]}

    data = envelope({"type": "TaskAborted", "because": "no time"}, {"type": "TaskCancelled", "reason": "no money"})
    assert codec.decode_event(data).events == (TaskCancelled(reason="no time"), TaskCancelled(reason="no money"))


@pytest.mark.usefixtures("upcasters")
def test_old_shape_of_a_name_that_stayed_is_lifted_once() -> None:
    """A field that changed its type; a command as well as an event."""

    @codec.upcaster("CancelTask")
    def reasons_were_lists(message: codec.Json) -> codec.Json:
        return {**message, "reason": "; ".join(message["reason"])}

    around = encoded(sample(CommandEnvelope))
    data = msgspec.json.encode({**around, "command": {"type": "CancelTask", "reason": ["late", "dear"]}})
    assert codec.decode_command(data).command.reason == "late; dear"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("upcasters")
def test_two_upcasters_of_one_shape_are_refused() -> None:
    """Which of them should hold?"""
    codec.upcaster("TaskAborted")(lambda message: message)
    with pytest.raises(ValueError, match="two upcasters for 'TaskAborted'"):
        codec.upcaster("TaskAborted")(lambda message: message)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"7",
        b'{"events": 7}',
        b'{"events": [7]}',
        envelope({"type": "NeverHeardOf"}),
        envelope({"type": "TaskCancelled", "reason": 7}),
        envelope({"reason": "no type"}),
    ],
)
def test_what_is_no_message_is_undecodable_and_nothing_worse(data: bytes) -> None:
    """Junk on a subject is told apart from a bug."""
    with pytest.raises(UndecodableMessage):
        codec.decode_event(data)
    with pytest.raises(UndecodableMessage):
        codec.decode_command(data)


def test_fields_of_a_newer_version_are_passed_over() -> None:
    """An older process may read what a newer one wrote."""
    data = envelope({"type": "TaskCancelled", "reason": "late", "mood": "sad"})
    assert codec.decode_event(data).events == (TaskCancelled(reason="late"),)
