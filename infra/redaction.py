"""Removes secrets from what is stored, without changing its length, so that offsets into output stay true.

Two kinds are replaced by asterisks: known secrets, wherever they stand (as they are, escaped in JSON, URL-encoded, in
Base64 at any alignment), and what looks like a secret by its shape (``SHAPES``). A known secret of fewer than
``SHORTEST_BYTES`` bytes is not looked for: it would match by chance everywhere and shred the text.

A byte is masked if and only if *any* occurrence covers it, overlapping ones included. So the answer does not depend
on how a text is cut into pieces, and a ``RedactedStream`` gives the same bytes as ``redact`` of the whole. It holds
back only a tail that may be the beginning of a secret: none after the end of a line, as a rule, at most some 16 KiB
where a private key has begun.

Speed: each literal is looked for by the C library; a regular expression runs only where its literal was found.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator

SHORTEST_BYTES = 6
_BEGIN = rb"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----"
_END = rb"-----END [A-Z ]{0,40}PRIVATE KEY-----"


class Shape:
    """``literal`` is what every secret of this shape begins with, or has in front of it. ``pattern`` matches from
    there, its group 1 is the secret. ``open_end`` matches, from there to the end of a text, what more text could make
    a secret or a longer one. ``window_bytes`` is longer than any match."""

    def __init__(self, literal: bytes, pattern: bytes, open_end: bytes, *, window_bytes: int = 1024) -> None:
        self.literal = literal
        self.pattern = re.compile(pattern)
        self.open_end = re.compile(open_end + rb"\Z")
        self.window_bytes = window_bytes


def _token(literal: str, characters: str, shortest: int, longest: int) -> Shape:
    """A literal that starts a word, then a run of characters."""
    start = rb"(?<![A-Za-z0-9])" + re.escape(literal.encode())
    run = characters.encode()
    return Shape(
        literal.encode(),
        start + b"(%s{%d,%d})" % (run, shortest, longest)
        if literal.endswith(" ")
        else b"(%s%s{%d,%d})" % (start, run, shortest, longest),
        start + b"%s{0,%d}" % (run, longest - 1),
    )


SHAPES = (
    _token("sk-", "[A-Za-z0-9_-]", 20, 300),  # Anthropic, OpenAI
    *(_token(f"gh{kind}_", "[A-Za-z0-9]", 20, 255) for kind in "pousr"),  # GitHub
    _token("github_pat_", "[A-Za-z0-9_]", 20, 255),
    *(_token(f"xox{kind}-", "[A-Za-z0-9-]", 10, 255) for kind in "abeprs"),  # Slack
    *(_token(prefix, "[A-Z0-9]", 16, 16) for prefix in ("AKIA", "ASIA")),  # Amazon
    _token("glpat-", "[A-Za-z0-9_-]", 20, 255),  # GitLab
    *(_token(word, "[A-Za-z0-9._~+/=-]", 16, 900) for word in ("Bearer ", "bearer ")),
    # The password of a URL.
    Shape(
        b"://",
        rb"://[^\s/:@?#]{0,128}:([^\s/@]{1,256})@",
        rb"://[^\s/:@?#]{0,128}(?::[^\s/@]{0,256})?",
    ),
    # A private key: up to its end, or as much as looks like one where the end is missing.
    Shape(
        b"-----BEGIN ",
        rb"(" + _BEGIN + rb"(?:(?:(?!-----)[\s\S]){0,16384}" + _END + rb"|[A-Za-z0-9+/=\\\s]{0,16384}))",
        rb"-----BEGIN (?:[A-Z ]{0,60}-{0,5}|"
        + rb"[A-Z ]{0,40}PRIVATE KEY-----(?:(?!-----)[\s\S]){0,16384}(?:-----[A-Z ]{0,60}-{0,5}|-{0,5}))",
        window_bytes=16_700,
    ),
)


class Redactor:
    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret) if len(form) >= SHORTEST_BYTES}
        self._forms = tuple(sorted(forms, key=len, reverse=True))
        # No secret is longer: what lies this far from a byte has no say in whether it is masked.
        self.reach_bytes = max((*(shape.window_bytes for shape in SHAPES), *(len(form) for form in forms))) + 1

    def redact(self, data: bytes) -> bytes:
        """``data`` with every secret in it as asterisks; as long as before."""
        return _masked(data, [(start, stop) for _, start, stop in self.found(data)])

    def redact_text(self, text: str) -> str:
        return self.redact(text.encode(errors="replace")).decode(errors="replace")

    def stream(self) -> RedactedStream:
        return RedactedStream(self)

    def found(self, data: bytes, begin: int = 0) -> list[tuple[int, int, int]]:
        """Every occurrence from ``begin`` on: where it begins, and the secret in it."""
        spans = []
        for form in self._forms:
            if form in data:
                spans += [(start, start, start + len(form)) for start in _occurrences(data, form, begin)]
        for shape in SHAPES:
            if shape.literal in data:
                for start in _occurrences(data, shape.literal, begin):
                    match = shape.pattern.match(data, start)
                    if match is not None:
                        spans.append((start, *match.span(1)))
        return spans

    def open_from(self, data: bytes, begin: int = 0) -> int:
        """Where the first occurrence from ``begin`` on may begin that only more data decides; else the end."""
        first = len(data)
        for form in self._forms:
            first = _beginning(data, form, begin, first)
        for shape in SHAPES:
            first = _beginning(data, shape.literal, begin, first)
            if shape.literal in data:
                for start in _occurrences(data, shape.literal, max(len(data) - shape.window_bytes, begin)):
                    if start < first and shape.open_end.match(data, start):
                        first = start
        return first


class RedactedStream:
    """Redacts a text that comes in pieces. What ``feed`` and at last ``flush`` answer, joined, is the text redacted."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = b""
        self._given_bytes = 0  # how much of what is held was given out already: the shapes look one byte back
        self._known: list[tuple[int, int]] = []  # spans of secrets that began in what was given out

    def feed(self, data: bytes) -> bytes:
        """What can be given out now."""
        text = self._held + data
        return self._give(text, self._redactor.open_from(text, self._given_bytes))

    def flush(self) -> bytes:
        """The rest: nothing more comes."""
        return self._give(self._held, len(self._held))

    def _give(self, text: bytes, end: int) -> bytes:
        found = self._redactor.found(text, self._given_bytes)
        spans = self._known + [(start, stop) for _, start, stop in found]
        given = _masked(text, spans)[self._given_bytes : end]
        kept = max(end - 1, 0)
        begun = self._known + [(start, stop) for begin, start, stop in found if begin < end]
        self._known = [(max(start - kept, 0), stop - kept) for start, stop in begun if stop > end]
        self._held = text[kept:]
        self._given_bytes = end - kept
        return given


def _occurrences(data: bytes, literal: bytes, start: int) -> Iterator[int]:
    start = data.find(literal, start)
    while start >= 0:
        yield start
        start = data.find(literal, start + 1)


def _beginning(data: bytes, literal: bytes, begin: int, limit: int) -> int:
    """Where the longest proper beginning of ``literal`` stands at the end of ``data``; ``limit`` if nowhere before."""
    start = max(len(data) - len(literal) + 1, begin)
    while (start := data.find(literal[:1], start, limit)) >= 0:
        if literal.startswith(data[start:]):
            return start
        start += 1
    return limit


def _masked(data: bytes, spans: Iterable[tuple[int, int]]) -> bytes:
    masked: bytearray | None = None
    for start, stop in spans:
        if start < stop:
            masked = bytearray(data) if masked is None else masked
            stop = min(stop, len(data))
            masked[start:stop] = b"*" * (stop - start)
    return data if masked is None else bytes(masked)


def _forms(secret: str) -> Iterator[bytes]:
    """A secret as it may stand in a text."""
    raw = secret.encode(errors="surrogateescape")
    if len(raw) < SHORTEST_BYTES:
        return
    yield raw
    yield json.dumps(secret)[1:-1].encode()
    yield json.dumps(secret, ensure_ascii=False)[1:-1].encode(errors="surrogateescape")
    yield urllib.parse.quote(raw, safe="").encode()
    yield urllib.parse.quote(raw).encode()
    yield urllib.parse.quote_plus(raw).encode()
    for before in range(3):
        # Whatever stands before and after it in the encoded text, these characters are its alone.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(b"\0" * before + raw)
            yield encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
