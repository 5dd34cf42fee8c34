"""``cairn projector``: the read models, which can always be made again from the log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from infra.embedded import stack_file
from services.command_line import console
from services.command_line.client import nearest_home
from services.command_line.failures import FAILED, UNREACHABLE, Failure

if TYPE_CHECKING:
    from infra.settings import Settings
    from projections.schema import Checkpoint

commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What queries are answered from.")

LONGEST_SECONDS = 3600.0
LOOK_SECONDS = 0.2


@commands.callback()
def group() -> None:
    """What queries are answered from. It is a fold of the log, and can be made again at any time."""


@commands.command("rebuild")
def rebuild() -> None:
    """Make the read models again from the log.

    Queries are answered from the old ones until then. It needs PostgreSQL: run it where the settings name it.
    """
    settings = settings_here()
    sequence = asyncio.run(_rebuild(settings.postgres.url, settings.tenant))
    console.say(f"The read models are made anew, up to {sequence} of the log.", style="green")


async def _rebuild(url: str, tenant: str) -> int:
    from infra.postgres import connection
    from projections import schema

    name = schema.schema_name(tenant)
    async with connection(url) as opened:
        if await schema.checkpoint(opened, name) is None or not await schema.ask_for_rebuild(opened, name):
            message = "There are no read models yet: the projector makes them as soon as it runs."
            raise Failure(message, exit_code=FAILED)
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                # The tables are swapped under us; nothing tells of that here.
                found = await schema.checkpoint(opened, name)
                while found is None or found.version != schema.VERSION:
                    await asyncio.sleep(LOOK_SECONDS)
                    found = await schema.checkpoint(opened, name)
        except TimeoutError as error:
            message = "The projector has not made them yet; does it run? `cairn status` tells."
            raise Failure(message, exit_code=FAILED) from error
    return found.sequence


def settings_here() -> Settings:
    """The settings of the stack that runs here, with the addresses of its servers, else those of the file here."""
    from msgspec.structs import replace

    from infra.settings import Postgres, Settings, load

    home = nearest_home()
    running = stack_file.read(home) if home is not None else None
    if home is None or running is None:
        settings = load()
    else:
        file = Path(home).parent / "cairn.toml"
        settings = load(file, {}) if file.is_file() else Settings()
        nats = replace(settings.nats, url=running.nats_url)
        settings = replace(settings, nats=nats, postgres=Postgres(url=running.postgres_url))
    if not settings.postgres.url:
        message = "No PostgreSQL is named: no Cairn runs here, and the settings have no postgres.url."
        raise Failure(message, exit_code=UNREACHABLE)
    return settings


async def compare(settings: Settings) -> tuple[Checkpoint | None, int, str]:
    """Where the read models stand, the last decision of the log, and why they do not fit it (empty where they do).
    Raises ``CairnError``."""
    from infra.jetstream.connection import JetStream
    from infra.postgres import connection, sign_in_url
    from projections import schema

    jetstream = await JetStream.connect(settings, "command-line")
    try:
        async with connection(sign_in_url(settings.postgres)) as opened:
            found = await schema.checkpoint(opened, schema.schema_name(settings.tenant))
            last = await jetstream.log.last_sequence()
            return found, last, schema.why_unfit(found, await jetstream.log.created_at(), last)
    finally:
        await jetstream.close()
