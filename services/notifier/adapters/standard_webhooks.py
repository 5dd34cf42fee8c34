"""Signing as Standard Webhooks has it: https://github.com/standard-webhooks/standard-webhooks.

A secret is ``whsec_`` and base64 of 24 to 64 bytes. While a key is replaced by another one the setting holds both,
separated by spaces, and the header has a signature by each.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from datetime import datetime

PREFIX = "whsec_"
KEY_BYTES = range(24, 65)


class SecretInvalid(ValueError):
    """The secret is no Standard Webhooks secret; the message never holds any of it."""


def keys_of(secret: str) -> list[bytes]:
    """The keys that a secret setting holds. Raises ``SecretInvalid``."""
    keys = [_key(part) for part in secret.split()]
    if not keys:
        message = "the secret is empty"
        raise SecretInvalid(message)
    return keys


def _key(part: str) -> bytes:
    try:
        key = base64.b64decode(part.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not part.startswith(PREFIX) or len(key) not in KEY_BYTES:
        message = f"the secret must be {PREFIX} followed by base64 of {KEY_BYTES[0]} to {KEY_BYTES[-1]} bytes"
        raise SecretInvalid(message)
    return key


def headers(id: str, sent_at: datetime, body: bytes, keys: list[bytes]) -> Mapping[str, str]:
    """The three headers of a message; ``id`` stays the same over retries, the time is the attempt's."""
    timestamp = str(int(sent_at.timestamp()))
    signed = b".".join((id.encode(), timestamp.encode(), body))
    signatures = (base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)
    return {
        "webhook-id": id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
