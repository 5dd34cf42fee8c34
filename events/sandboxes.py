"""What a project's containers are made of: image, limits and network."""

from __future__ import annotations

import difflib
import re

import msgspec

from events.errors import Invalid

# "" is the worker's choice: a container where its engine answers, else a working tree.
ISOLATIONS = ("", "container", "worktree")
# Nothing; the services that the environment composes; these, and hosts of the allow-list through a proxy.
NETWORKS = ("none", "services", "outward")

ANY_PUBLIC = "*"
DOCKERFILE = "dockerfile"

_HOST = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?\Z")


class Sandbox(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``image`` is a name, ``dockerfile`` or ``dockerfile:PATH`` for one that is built from the repository's own file,
    or empty: then it is what the repository's dev container file says, else the worker's. ``allowed_hosts`` are names,
    ``*.DOMAIN`` for all below one, or ``*`` for every public address; private addresses must be named. Limits of 0 are
    the worker's, which are also the most that counts: ``cpus`` cores, ``memory_mb`` MiB, ``pids`` processes."""

    image: str = ""
    network: str = "outward"
    allowed_hosts: tuple[str, ...] = (ANY_PUBLIC,)
    cpus: float = 0.0
    memory_mb: int = 0
    pids: int = 0


def check_isolation(isolation: str) -> None:
    """Raises ``Invalid`` for one that is not known."""
    if isolation not in ISOLATIONS:
        known = ", ".join(ISOLATIONS[1:])
        message = f"isolation {isolation!r} is not known; known: {known}, or none for what the worker has."
        raise Invalid(message)


def check_sandbox(sandbox: Sandbox) -> None:
    """Raises ``Invalid`` with what to write instead."""
    if sandbox.network not in NETWORKS:
        near = difflib.get_close_matches(sandbox.network, NETWORKS, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(NETWORKS)}."
        message = f"network {sandbox.network!r} is not known; {meant}"
        raise Invalid(message)
    for host in sandbox.allowed_hosts:
        if host != ANY_PUBLIC and not _HOST.match(host):
            message = (
                f"allowed host {host!r} is no name: write registry.example.com, *.example.com or *, without a port."
            )
            raise Invalid(message)
    for name in ("cpus", "memory_mb", "pids"):
        if getattr(sandbox, name) < 0:
            message = f"{name} is {getattr(sandbox, name)}; it must not be negative (0 is the worker's limit)."
            raise Invalid(message)
    if 0 < sandbox.memory_mb < 16:
        message = f"memory_mb is {sandbox.memory_mb}; a container needs at least 16."
        raise Invalid(message)
