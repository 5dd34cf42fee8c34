"""What both protocols demand of names, ids and arguments, however odd the model that asked for the call.

A conversation that a provider refuses once it refuses for ever, so whatever a model made up is put into a form that
every provider takes before it is shown again.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

# OpenAI takes ids of calls up to 40 characters, Anthropic those that match this pattern.
_ID = re.compile(r"[A-Za-z0-9_-]{1,40}\Z")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
NAME_CHARACTERS = 64

_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def wire_id(call_id: str) -> str:
    """Our id of a call where the provider takes it, else one derived from it, always the same."""
    if _ID.match(call_id):
        return call_id
    return f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:32]}"


def wire_name(tool: str) -> str:
    """The tool's name, or the nearest that a provider takes where a model made one up."""
    return _NOT_IN_NAMES.sub("_", tool)[:NAME_CHARACTERS] or "unknown"


def wire_arguments(text: str) -> str:
    """``text`` if it is a JSON object, else ``{}``: Anthropic takes nothing but an object, and of those that speak
    OpenAI's protocol many parse the text again. What was wrong with it stands in the call's result."""
    try:
        _object_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return "{}"
    return text
