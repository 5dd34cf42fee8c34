"""Options that many commands share."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from services.command_line.client import Gateway, connect

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class Target:
    """Which gateway the commands speak to, as the options before the command say."""

    url: str | None = None
    key: str | None = None


def is_elsewhere(context: typer.Context) -> bool:
    """Whether --url or CAIRN_URL names a Cairn, rather than the one that runs here being meant."""
    target = context.find_object(Target) or Target()
    return bool(target.url or os.environ.get("CAIRN_URL"))


def gateway(context: typer.Context) -> Gateway:
    """The gateway of this invocation. Raises ``Failure`` where there is none."""
    target = context.find_object(Target) or Target()
    return connect(target.url, target.key)
