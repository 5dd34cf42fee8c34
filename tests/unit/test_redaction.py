"""Redaction: what is masked, what is not, and that it does not matter how a text comes in pieces."""

from __future__ import annotations

import base64
import json
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.redaction import Redactor

SECRET = 'hunter2/hunter2 "x"'
LETTERS = "aB3" * 20  # long enough for every shape
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{LETTERS}\n{LETTERS}=\n-----END RSA PRIVATE KEY-----"


def masked(text: str, *secrets: str) -> str:
    return Redactor(secrets).redact(text.encode()).decode()


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        json.dumps(SECRET)[1:-1],
        urllib.parse.quote(SECRET, safe=""),
        urllib.parse.quote_plus(SECRET),
    ],
)
def test_a_known_secret_is_masked_however_it_is_escaped(form: str) -> None:
    """As it is, in JSON, in a URL; each time by as many asterisks."""
    assert masked(f"<{form}>", SECRET) == f"<{'*' * len(form)}>"


@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_known_secret_is_masked_in_base64(before: str, encode: object) -> None:
    """At every alignment; what remains readable does not tell a byte of it."""
    encoded = encode((before + SECRET + "!").encode()).decode()  # type: ignore[operator]
    result = masked(encoded, SECRET)
    assert len(result) == len(encoded)
    left = base64.b64decode(result.replace("*", "A") + "=" * (-len(result) % 4), altchars=None)
    assert SECRET[:2].encode() not in left
    assert result.count("*") >= len(SECRET)


def test_a_multibyte_secret_keeps_the_length_in_bytes() -> None:
    """Offsets are bytes."""
    assert Redactor(["pässwörd"]).redact("x pässwörd y".encode()) == b"x " + b"*" * 10 + b" y"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"key=sk-{LETTERS} rest", f"sk-{LETTERS}"),
        (f"ghp_{LETTERS[:36]}", f"ghp_{LETTERS[:36]}"),
        (f"(github_pat_{LETTERS})", f"github_pat_{LETTERS}"),
        (f"xoxb-{LETTERS[:24]}", f"xoxb-{LETTERS[:24]}"),
        ("id AKIA" + "Q" * 16 + ";", "AKIA" + "Q" * 16),
        (f"glpat-{LETTERS[:20]}\n", f"glpat-{LETTERS[:20]}"),
        (f"Authorization: Bearer {LETTERS}", LETTERS),
        ("postgres://app:s3cret!pw@db:5432/x", "s3cret!pw"),
        (f"a\n{PEM}\nb", PEM),
        (f"a\n{PEM[:80]}", PEM[:80]),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, secret: str) -> None:
    """By its shape alone, and nothing beside it."""
    assert masked(text) == text.replace(secret, "*" * len(secret))


@pytest.mark.parametrize(
    "text",
    [
        "task-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "http://localhost:8080/path?at=you@example.com",
        "Bearer of good news",
        "mail user@example.com, sk-short, ghp_short",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    """What only resembles a secret is not worth a shredded log."""
    assert masked(text, "unrelated-secret") == text


def test_a_short_secret_is_not_looked_for() -> None:
    """Fewer than six bytes would match by chance everywhere."""
    assert masked("a test, abcde", "test", "abcde", "") == "a test, abcde"


def test_overlapping_occurrences_are_all_masked() -> None:
    """A secret that repeats itself leaves no half of it."""
    assert masked("xabcabcabcabcx", "abcabcabc") == "x" + "*" * 12 + "x"


PIECES = st.sampled_from(
    [
        SECRET, SECRET[:7], "abcabc", "abcabcabc", "abc", "-", "s", "sk-", f"sk-{LETTERS}", "task-", LETTERS, "ghp_",
        "x", "Bearer ", "://", "://u:", "u:p@", "@", ":", "/", "\n", " ", PEM, PEM[:50], PEM[-40:], "-----BEGIN ",
        "PRIVATE KEY-----", "-----END ", "AKIA", "Q" * 16, "é", f"Bearer {LETTERS}", "B" * 1200,
        base64.b64encode(SECRET.encode()).decode(),
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=14).map("".join), st.lists(st.integers(1, 40), max_size=60))
def test_pieces_give_the_same_as_the_whole(text: str, lengths: list[int]) -> None:
    """However a text is cut, what the stream answers is the whole text redacted, and never longer than what came."""
    redactor = Redactor([SECRET, "abcabcabc"])
    data = text.encode()
    stream = redactor.stream()
    given_out = bytearray()
    rest = data
    for length in lengths:
        piece, rest = rest[:length], rest[length:]
        given_out += stream.feed(piece)
    given_out += stream.feed(rest)
    assert len(given_out) <= len(data)
    given_out += stream.flush()
    assert bytes(given_out) == redactor.redact(data)
    assert len(given_out) == len(data)


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, max_size=6).map("".join))
def test_a_byte_at_a_time_gives_the_same_as_the_whole(text: str) -> None:
    """The finest cut there is."""
    redactor = Redactor([SECRET, "abcabcabc"])
    stream = redactor.stream()
    given_out = b"".join(stream.feed(bytes([byte])) for byte in text.encode()) + stream.flush()
    assert given_out == redactor.redact(text.encode())


def test_ordinary_lines_are_not_held_back() -> None:
    """Live output is not delayed: only a tail that may be a secret waits."""
    stream = Redactor([SECRET]).stream()
    assert stream.feed(b"building...\n") == b"building...\n"
    assert stream.feed(b"Continue? [y/N] ") == b"Continue? [y/N] "
    assert stream.feed(b"now " + SECRET[:5].encode()) == b"now "
    assert stream.feed(b"!\n") == SECRET[:5].encode() + b"!\n"
    assert stream.flush() == b""
