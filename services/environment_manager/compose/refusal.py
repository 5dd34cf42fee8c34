"""Why a Compose file is not run: each dangerous thing in it, with its key, its service and the reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from services.environment_manager.tools import ToolRefused

SHOWN = 20


class Refusal(msgspec.Struct, frozen=True):
    """``key`` is what stands in the file, ``service`` where (empty: not in a service). ``allowance`` is the name by
    which the project can allow it; nobody can where it is empty."""

    key: str
    service: str
    reason: str
    allowance: str = ""

    def __str__(self) -> str:
        where = f"service {self.service}: " if self.service else ""
        return f"{where}{self.key}: {self.reason}"


def raise_if_refused(compose_file: str, refusals: Sequence[Refusal], allowed: Collection[str]) -> None:
    """Raises ``ToolRefused`` (``compose-refused``) with everything that the project does not allow."""
    left = [refusal for refusal in refusals if not refusal.allowance or refusal.allowance not in allowed]
    if not left:
        return
    lines = [f"{compose_file} is not run, because of what it asks for:", *(f"- {refusal}" for refusal in left[:SHOWN])]
    if len(left) > SHOWN:
        lines.append(f"- and {len(left) - SHOWN} more")
    names = sorted({refusal.allowance for refusal in left if refusal.allowance})
    if names:
        lines.append(f"Take it out of the file. What a project needs all the same its compose_allow can name: {names}.")
    raise ToolRefused("compose-refused", "\n".join(lines))
