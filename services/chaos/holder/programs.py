"""The programs that change the kernel's tables: nft, iptables, tc."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from services.chaos.holder.order import Refused

LIMIT_SECONDS = 10.0


def run(argv: Sequence[str], text: str = "") -> str:
    """What a program printed. Raises ``Refused`` with its last words where it fails."""
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"{argv[0]}: {error}"
        raise Refused(message) from error
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        message = f"{' '.join(argv[:4])}: {said[0] if said else f'exit {done.returncode}'}"
        raise Refused(message)
    return done.stdout
