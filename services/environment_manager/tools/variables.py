"""What a process of an environment sees of the world through its variables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

# The names of the services that the environment has composed, with commas between them.
SERVICES = "CAIRN_SERVICES"


def process_environment(
    directory: Path,
    secrets: Mapping[str, str],
    extra: Mapping[str, str],
    *,
    inside: Path | None = None,
    services: Iterable[str] = (),
) -> dict[str, str]:
    """Everything that a process of the environment in ``directory``, which it sees as ``inside``, is given: of this
    service's own variables only the search path, no settings, no credentials, no agent's socket. ``secrets`` are
    values by variable, ``services`` the names of those that are composed."""
    (directory / "home").mkdir(mode=0o700, exist_ok=True)
    seen = inside or directory
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(seen / "home"),
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(seen),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_EDITOR": "true",
        "GIT_AUTHOR_NAME": "Cairn agent",
        "GIT_AUTHOR_EMAIL": "agent@cairn.invalid",
        "GIT_COMMITTER_NAME": "Cairn agent",
        "GIT_COMMITTER_EMAIL": "agent@cairn.invalid",
        SERVICES: ",".join(sorted(set(services))),
        **extra,
        **secrets,
    }
