"""The labels that everything Cairn makes in an engine carries. What lacks them is never touched."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

TENANT = "cairn.tenant"
HOST = "cairn.host"
# The installation: the path of its home. Several may share a host and its engine.
HOME = "cairn.home"
PROJECT = "cairn.project"
TASK = "cairn.task"
RUN = "cairn.run"
ENVIRONMENT = "cairn.environment"
EXPERIMENT = "cairn.experiment"

# What a container is for: one of the names below.
ROLE = "cairn.role"
SANDBOX = "sandbox"
SERVICE = "service"
FAULT = "fault"
REAPER = "reaper"
PROXY = "proxy"
# No container, but the lease of an installation: a volume.
INSTALLATION = "installation"

# What a sandbox may reach: the name of a network policy (``events.sandboxes.NETWORKS``).
NETWORK = "cairn.network"

# The folder that a container kept warm stands on.
WARM = "cairn.warm"

# When nobody needs it any more, in whole seconds since 1970.
EXPIRES = "cairn.expires"

# Compose's own, by which the containers of a project are found.
COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_SERVICE = "com.docker.compose.service"


def installation(marks: Mapping[str, str]) -> str:
    """Which installation the labels ``marks`` tell of: several may use one engine and name environments alike."""
    return " ".join(marks[name] for name in (TENANT, HOST, HOME) if name in marks)


def sandbox_name(environment_id: str, installation: str) -> str:
    """The name of the container that the processes of an environment of an installation run in."""
    return f"{compose_project(environment_id, installation)}-sandbox"


def compose_project(environment_id: str, installation: str) -> str:
    """The name of the Compose project of an environment of an installation: lower case, as Compose asks, and different
    for each."""
    digest = hashlib.sha256(f"{environment_id} {installation}".encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9]+", "-", environment_id.lower()).strip("-")[:40].rstrip("-")
    return f"cairn-{readable}-{digest}" if readable else f"cairn-{digest}"
