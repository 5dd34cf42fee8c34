"""``cairn deploy``: the settings and secrets of a deployment, and the workers that may sign in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.command_line import console
from services.command_line.failures import Failure

commands = typer.Typer(no_args_is_help=True, help="Settings, secrets and workers of a deployment with containers.")

Folder = Annotated[Path, typer.Option(help="Where settings and secrets of the deployment lie.", show_default=True)]
DEPLOY = Path("deploy")
RELOAD = "Let NATS read its users again: docker compose kill -s HUP nats"

WORKER_SETTINGS = """\
# Settings of the worker {name}. Everything else that `cairn.toml` can say may stand here too; agents and their limits
# should be described as they are for the control plane.

tenant = "{tenant}"

[nats]
url = "{nats}"
inbox = "{inbox}"
{tls}manage_streams = false

[worker]
host = "{name}"
"""


@commands.command("init")
def init(folder: Folder = DEPLOY) -> None:
    """Make the settings file and the secrets, where they are missing."""
    from infra import deployment
    from services.command_line.example_settings import EXAMPLE

    try:
        deployment.prepare(folder, settings=EXAMPLE)
    except OSError as error:
        message = f"{error.filename} cannot be written ({error.strerror}): choose another folder with --folder."
        raise Failure(message) from error
    console.fields({"settings": folder / "settings" / "cairn.toml", "key": folder / "secrets" / "api-key"})


@commands.command("worker")
def worker(
    name: str,
    nats: Annotated[str, typer.Option(help="The NATS of the control plane, as the worker reaches it.")],
    to: Annotated[Path, typer.Option(help="A new folder for what the worker's host needs.")],
    nats_ca: Annotated[
        Path | None,
        typer.Option(
            help="The certificates of the authority that NATS has its own from, where it is none that hosts trust.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    tenant: Annotated[str, typer.Option(help="Whom it works for.", show_default=True)] = "default",
    folder: Folder = DEPLOY,
) -> None:
    """Make a folder with all that a worker's host needs: a Compose file, a settings file, a key."""
    from infra import deployment

    compose = folder / "worker" / "docker-compose.yml"
    if to.exists():
        message = f"{to} is there already."
        raise Failure(message, hint="Choose a new folder with --to.")
    if not compose.is_file():
        message = f"There is no {compose}, which is the worker's Compose file."
        raise Failure(message, hint="Name the folder `deploy` of a checkout with --folder.")
    seed = deployment.add_worker(folder, name, tenant=tenant)
    tls = f'tls_ca = "/etc/cairn/{deployment.NATS_CA}"\n' if nats_ca is not None else ""
    settings = WORKER_SETTINGS.format(name=name, tenant=tenant, nats=nats, inbox=deployment.inbox(name), tls=tls)
    files = [compose, *sorted(compose.parent.glob("docker-compose.*.yml"))]
    try:
        deployment.write_worker(to, files, settings, seed, authority=nats_ca)
    except OSError as error:
        deployment.revoke_worker(folder, name)
        message = f"{error.filename} cannot be written ({error.strerror}): choose another folder with --to."
        raise Failure(message) from error
    console.say(f"Take {to} to the worker's host, and start it there: docker compose up -d --wait")
    console.say(RELOAD)


@commands.command("revoke")
def revoke(name: str, folder: Folder = DEPLOY) -> None:
    """Let a worker sign in no more."""
    from infra import deployment

    deployment.revoke_worker(folder, name)
    console.say(f"{name} cannot sign in any more as soon as NATS has read its users again.")
    console.say(RELOAD)
