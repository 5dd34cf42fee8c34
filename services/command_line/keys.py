"""``cairn key``: who may speak to the gateway. It edits the file of keys in the home of this host's gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from events.names import checked_name
from infra import api_keys
from services.command_line import console
from services.command_line.client import nearest_home
from services.command_line.failures import FAILED, NOT_FOUND, Failure
from services.command_line.options import AsJson

commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Who may speak to the gateway.")

Name = Annotated[str, typer.Argument(help="Whose key it is: what is done with it is recorded under this name.")]


@commands.command("add")
def add(name: Name, as_json: AsJson = False) -> None:
    """Make a key and print it, once: only its digest is kept. It is good from now on."""
    key = api_keys.add(_home(), checked_name(name, "key"))
    if key is None:
        message = f"There is a key named {name} already."
        raise Failure(message, hint=f"`cairn key revoke {name}` takes it back.", exit_code=FAILED)
    if as_json:
        console.show_json({"name": name, "key": key})
    else:
        console.say(key)
        console.note("Keep it: it is not shown again.")


@commands.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """The names of all keys."""
    names = sorted(api_keys.load(_home()))
    if as_json:
        console.show_json(names)
    else:
        console.table(["key"], [(name,) for name in names], empty="There is no key: nobody is let in.")


@commands.command("revoke")
def revoke(name: Name) -> None:
    """Take a key back. Its requests are refused from now on, and its open streams end with the next event."""
    if not api_keys.revoke(_home(), name):
        message = f"There is no key named {name}."
        raise Failure(message, hint="`cairn key list` shows those that there are.", exit_code=NOT_FOUND)
    console.say(f"The key {name} is good for nothing any more.", style="green")
    if name == api_keys.LOCAL:
        console.note("The commands on this host need a new one: the gateway makes it when it starts.")


def _home() -> Path:
    from infra.settings import load

    home = nearest_home() or Path(load().home)
    if not home.is_dir():
        message = f"There is no home of Cairn at {home}."
        raise Failure(message, hint="Keys are made on the host of the gateway.", exit_code=NOT_FOUND)
    return home
