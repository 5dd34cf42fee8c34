"""Content by reference: text that is small and public stands in the event, everything else in the content store.

A payload is ``Inline`` up to ``INLINE_LIMIT_BYTES`` where the tenant's policy allows it, else ``Stored``:
its SHA-256, by which the content store gives it back, and its size.
"""

from __future__ import annotations

import hashlib

import msgspec

INLINE_LIMIT_BYTES = 32 * 1024


class Inline(msgspec.Struct, frozen=True, tag="inline", tag_field="kind"):
    """Text that stands in the event itself."""

    text: str


class Stored(msgspec.Struct, frozen=True, tag="stored", tag_field="kind"):
    """A reference into the content store: hex SHA-256 and size in bytes."""

    digest: str
    size_bytes: int


Content = Inline | Stored

EMPTY = Inline("")


def digest_of(data: bytes) -> str:
    """The hex SHA-256 under which the content store keeps ``data``."""
    return hashlib.sha256(data).hexdigest()
