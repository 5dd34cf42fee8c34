"""What a holder is asked to do: read from the environment of its container."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VARIABLE = "CAIRN_FAULT"


class Refused(Exception):
    """This cannot be done here; the message says why."""


@dataclass(frozen=True)
class Order:
    """``name`` is the record's; ``until`` is in seconds since 1970; ``peers`` are addresses, none means everybody."""

    name: str
    kind: str
    until: float
    peers: tuple[str, ...]
    parameters: Mapping[str, Any]

    @property
    def mark(self) -> str:
        """A name for what this holder leaves in the kernel: the same at every try, and different from others'."""
        return "cairn_" + hashlib.sha256(self.name.encode()).hexdigest()[:16]

    def peers_of(self, version: int) -> list[str]:
        """The addresses of IPv4 or IPv6."""
        return [peer for peer in self.peers if ipaddress.ip_address(peer).version == version]


def read(environ: Mapping[str, str] = os.environ) -> Order:
    """Raises ``Refused`` where the variable is no order."""
    try:
        raw = json.loads(environ[VARIABLE])
        return Order(
            name=str(raw["name"]),
            kind=str(raw["kind"]),
            until=float(raw["until"]),
            peers=tuple(str(ipaddress.ip_address(peer)) for peer in raw["peers"]),
            parameters=dict(raw["parameters"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        message = f"{VARIABLE} is no order: {error!r}"
        raise Refused(message) from error


def written(name: str, kind: str, until: float, peers: tuple[str, ...], parameters: Mapping[str, Any]) -> str:
    """The value of the variable."""
    raw = {"name": name, "kind": kind, "until": until, "peers": peers, "parameters": dict(parameters)}
    return f"{VARIABLE}={json.dumps(raw, separators=(',', ':'))}"
