"""Secrets by reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from events.errors import Permanent
from infra.secrets import resolve


def test_a_variable_and_a_file_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file loses its last newline, as an editor leaves it, and no other."""
    monkeypatch.setenv("SOME_KEY", " value ")
    (tmp_path / "key").write_text("two\nlines\n\n")
    assert resolve("env:SOME_KEY") == " value "
    assert resolve(f"file:{tmp_path}/key") == "two\nlines\n"


@pytest.mark.parametrize("reference", ["env:NO_SUCH_VARIABLE", "file:/no/such/file", "file:/"])
def test_a_missing_secret_is_named(reference: str) -> None:
    """The message names the reference, so that one knows what to mend."""
    with pytest.raises(Permanent, match=reference) as refused:
        resolve(reference)
    assert refused.value.slug == "secret-not-found"


@pytest.mark.parametrize("written", ["sk-live-1234567890", "vault:kv/key", "env:", ""])
def test_what_is_no_reference_is_not_repeated(written: str) -> None:
    """It may be the secret itself."""
    with pytest.raises(Permanent, match="env:NAME") as refused:
        resolve(written)
    assert written == "" or written.removeprefix("env:") == "" or written not in str(refused.value)


def test_an_empty_binary_or_huge_file_is_refused(tmp_path: Path) -> None:
    """None of them can be a secret that was meant."""
    for content, why in ((b"\n", "empty"), (b"\xff\xfe", "not text"), (b"x" * 70_000, "too large")):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(Permanent, match=why):
            resolve(f"file:{tmp_path}/key")
