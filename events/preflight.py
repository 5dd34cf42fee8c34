"""What a host finds out about the programs of agents before any of them is started: part of its signs of life.

Nothing of it is kept: it is looked at again every few seconds, and counts only while the host lives.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``problem`` is empty where the program can be run; ``said`` is the first line of its answer."""

    problem: str = ""
    said: str = ""


class Sign(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a host tells of itself with each sign of life: ``programs`` by the name that agents start them by."""

    programs: dict[str, Finding] = {}


# By host.
Preflights = Mapping[str, Mapping[str, Finding]]


def why_unfit(program: str, preflights: Preflights) -> str:
    """Why no host can run the program; empty where one can, or none has looked."""
    found = {host: told[program] for host, told in preflights.items() if program in told}
    if not found or any(not finding.problem for finding in found.values()):
        return ""
    return "; ".join(f"{finding.problem} on {host}" for host, finding in sorted(found.items()))
