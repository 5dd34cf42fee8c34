"""``cairn deploy``: the settings and secrets of a deployment, and the workers that may sign in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from services.command_line import console
from services.command_line.failures import INVALID, Failure

commands = typer.Typer(no_args_is_help=True, help="Settings, secrets and workers of a deployment with containers.")

Folder = Annotated[Path, typer.Option(help="Where settings and secrets of the deployment lie.", show_default=True)]
DEPLOY = Path("deploy")
NATS_ADDRESSES = re.compile(r'(nats|tls)://[^\s,"\\]+(,(nats|tls)://[^\s,"\\]+)*')
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
    if not NATS_ADDRESSES.fullmatch(nats):
        message = f"{nats!r} is no address of NATS."
        raise Failure(message, hint="Write it so: nats://HOST:4222, or tls://HOST:4222.", exit_code=INVALID)
    authority = _certificates(nats_ca) if nats_ca is not None else ""
    seed = deployment.add_worker(folder, name, tenant=tenant)
    tls = f'tls_ca = "/etc/cairn/{deployment.NATS_CA}"\n' if authority else ""
    settings = WORKER_SETTINGS.format(name=name, tenant=tenant, nats=nats, inbox=deployment.inbox(name), tls=tls)
    files = [compose, *sorted(compose.parent.glob("docker-compose.*.yml"))]
    try:
        deployment.write_worker(to, files, settings, seed, authority=authority)
    except OSError as error:
        deployment.revoke_worker(folder, name)
        message = f"{error.filename} cannot be written ({error.strerror}): choose another folder with --to."
        raise Failure(message) from error
    console.say(f"Take {to} to the worker's host, and start it there: docker compose up -d --wait")
    console.say(RELOAD)


def _certificates(file: Path) -> str:
    """What the file says, if TLS can use it."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # An SSLError is an OSError too.
        message = f"{file} holds no certificates that could be used ({getattr(error, 'strerror', None) or error})."
        raise Failure(message, hint="It is to be a PEM file.", exit_code=INVALID) from error


@commands.command("revoke")
def revoke(name: str, folder: Folder = DEPLOY) -> None:
    """Let a worker sign in no more."""
    from infra import deployment

    deployment.revoke_worker(folder, name)
    console.say(f"{name} cannot sign in any more as soon as NATS has read its users again.")
    console.say(RELOAD)
