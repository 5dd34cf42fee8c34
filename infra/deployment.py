"""The files of a deployment that nobody should write by hand: secrets, and who may do what at NATS.

A folder ``deploy/`` holds ``settings/cairn.toml`` (the agents) and ``secrets/``: ``postgres-password``, ``api-key``,
``nats-control`` and ``nats-key`` (seeds of nkeys: the control plane's and the local worker's), ``agents/`` and
``webhooks/`` (whatever settings refer to). ``secrets/nats/users.conf`` is what nats-server includes; it holds public
keys only, and is written anew from ``secrets/nats/users.json`` ({"name": {"key": public key, "tenant": …}}).

The control plane may do everything. A worker signs in with a key of its own, has an inbox that nobody else may see, and
may write only what a worker of its tenant writes: events of runs, environments, pull requests and experiments,
commands, output, content, its own signs of life. It cannot change a stream, and takes only the commands that are for
workers. It reads the events and contents of its whole tenant, and of other tenants the names that stand in subjects:
customers who must not see even these get NATS accounts of their own.

Secrets are readable by everybody inside a folder that only its owner can enter: containers, which get single files,
run as another user.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import nkeys

from events import subjects
from events.chaos import CHAOS
from events.environment import ENVIRONMENT
from events.errors import CairnError, Invalid
from events.experiment import EXPERIMENT
from events.names import checked_name
from events.pull_request import PULL_REQUEST
from events.run import RUN
from events.task_state import TASK
from infra.api_keys import make_key

_SHARED_STREAMS = (
    subjects.COMMANDS,
    subjects.RUNS,
    subjects.CALLS,
    subjects.OUTPUT,
    subjects.CONTENT,
    subjects.LEASES,
    subjects.HOSTS,
    subjects.DEAD_LETTERS,
)
LOCAL_WORKER = "local"
USERS_FILE = "users.json"
# In the folder of settings, which containers see as /etc/cairn.
NATS_CA = "nats-ca.pem"


class User(msgspec.Struct, frozen=True):
    """A worker that may sign in: its public key, and the tenant that it works for."""

    key: str
    tenant: str


class DeploymentUnfit(CairnError):
    """A folder does not hold a deployment, or not one that can be used; the message names the file."""


def prepare(folder: Path, *, settings: str) -> None:
    """Make what is missing of a deployment in ``folder``, the local worker among it; change nothing that is there.
    ``settings`` is the text of a new settings file. Raises ``DeploymentUnfit``, ``OSError``."""
    hidden = folder / "secrets"
    hidden.mkdir(mode=0o700, parents=True, exist_ok=True)
    hidden.chmod(0o700)
    for place in (folder / "settings", *(hidden / name for name in ("nats", "agents", "webhooks"))):
        _open_folder(place)
    _once(folder / "settings" / "cairn.toml", settings)
    _once(hidden / "postgres-password", secrets.token_urlsafe(24))
    _once(hidden / "api-key", make_key())
    _once(hidden / "nats-control", _seed())
    if not (hidden / "nats-key").exists():
        if LOCAL_WORKER in _users(folder):
            revoke_worker(folder, LOCAL_WORKER)
        _once(hidden / "nats-key", add_worker(folder, LOCAL_WORKER, tenant="default"))
    _write_users(folder, _users(folder))


def add_worker(folder: Path, name: str, *, tenant: str) -> str:
    """Let a worker sign in; answers the seed that is its key and kept nowhere here. Raises ``Invalid`` where the name
    is taken, ``DeploymentUnfit``."""
    checked_name(name, "worker")
    checked_name(tenant, "tenant")
    users = _users(folder)
    if name in users:
        message = f"There is a worker {name} already: revoke it first, or choose another name."
        raise Invalid(message)
    seed = _seed()
    _write_users(folder, users | {name: User(_public(seed), tenant)})
    return seed


def revoke_worker(folder: Path, name: str) -> None:
    """Whoever has the key of this worker cannot sign in any more, once NATS has read its users again."""
    users = _users(folder)
    if name not in users:
        message = f"There is no worker {name}; there are: {', '.join(sorted(users)) or 'none'}."
        raise Invalid(message)
    _write_users(folder, {other: user for other, user in users.items() if other != name})


def write_worker(folder: Path, compose_files: Sequence[Path], settings: str, seed: str, *, authority: str = "") -> None:
    """What a worker's host needs, in a new folder; ``authority`` are the certificates (PEM) that it trusts NATS by.
    Raises ``OSError``."""
    hidden = folder / "secrets"
    hidden.mkdir(mode=0o700, parents=True)
    for place in (folder / "settings", hidden / "agents"):
        _open_folder(place)
    for file in compose_files:
        _once(folder / file.name, file.read_text(encoding="utf-8"))
    _once(folder / "settings" / "cairn.toml", settings)
    _once(hidden / "nats-key", seed)
    if authority:
        _once(folder / "settings" / NATS_CA, authority)


def inbox(worker: str) -> str:
    """The first token of the subjects where a worker gets its answers."""
    return f"_INBOX_{worker}"


def users_configuration(control: str, workers: dict[str, User]) -> str:
    """What nats-server includes: the public key ``control`` may do everything, each worker what a worker does."""
    lines = [f"    {{ nkey: {control} }}"]
    for name, user in sorted(workers.items()):
        publish = json.dumps(list(may_publish(name, user.tenant)))
        subscribe = json.dumps([f"{inbox(name)}.>"])
        lines.append(f"    {{ nkey: {user.key}, permissions: {{ publish: {publish}, subscribe: {subscribe} }} }}")
    return "\n".join(["authorization {", "  users: [", *lines, "  ]", "}", ""])


def may_publish(worker: str, tenant: str) -> Iterator[str]:
    """The subjects that a worker writes to, JetStream's interface among them.

    What a request to JetStream is about often stands in its body, which no permission sees. So of streams that tenants
    share it may ask only by subject, and make only those consumers whose filter stands in the subject.
    """
    events = subjects.events_stream(tenant)
    for stream in (events, *_SHARED_STREAMS):
        yield f"$JS.API.STREAM.INFO.{stream}"  # To see that each is as it should be.
    yield f"$JS.API.DIRECT.GET.{events}"
    yield f"$JS.API.DIRECT.GET.{events}.>"
    yield f"$JS.API.DIRECT.GET.{subjects.CONTENT}.{subjects.content(tenant, '>')}"
    for stream in (events, subjects.HOSTS):
        yield f"$JS.API.STREAM.MSG.GET.{stream}"
    for what in ("CREATE", "MSG.NEXT", "DELETE"):
        yield f"$JS.API.CONSUMER.{what}.{events}.*"
    for stream, durable, taken in _durables(worker, tenant):
        yield f"$JS.API.CONSUMER.CREATE.{stream}.{durable}.{taken}"
        yield f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"
        yield f"$JS.ACK.{stream}.{durable}.>"
    for entity in (RUN.name, ENVIRONMENT.name, PULL_REQUEST.name, EXPERIMENT.name, CHAOS.name):
        yield subjects.event(tenant, entity, "*")
    yield subjects.command(tenant, subjects.SCHEDULER, subjects.ANY, TASK.name, "*")
    # A run may go on here while its environment lives on another host.
    for entity in (ENVIRONMENT.name, subjects.CALL_TOKEN):
        yield subjects.command(tenant, subjects.ENVIRONMENT_MANAGER, "*", entity, "*")
    yield subjects.command(tenant, subjects.CHAOS, worker, EXPERIMENT.name, "*")
    for service in (subjects.AGENT_RUNNER, subjects.ENVIRONMENT_MANAGER, subjects.CHAOS):
        yield subjects.dead_letter(tenant, service)
    yield subjects.output(tenant, "*")
    yield subjects.content(tenant, ">")
    yield subjects.lease(tenant, "*")
    yield subjects.host(tenant, worker)
    # Outcomes for whoever waits for them.
    yield "_INBOX.>"


def _durables(worker: str, tenant: str) -> Iterator[tuple[str, str, str]]:
    """The consumers that a worker takes commands from, each with its stream and what it takes."""
    manager, chaos = subjects.ENVIRONMENT_MANAGER, subjects.CHAOS

    def taken(service: str, target: str, entity: str) -> str:
        return subjects.command(tenant, service, target, entity, "*")

    runs = f"{subjects.AGENT_RUNNER}-{tenant}-{subjects.ANY}"
    yield subjects.RUNS, runs, taken(subjects.AGENT_RUNNER, subjects.ANY, subjects.RUN_TOKEN)
    for target in (worker, subjects.ANY):
        yield subjects.COMMANDS, f"{manager}-{tenant}-{target}", taken(manager, target, ENVIRONMENT.name)
    pull_requests = f"{manager}-{tenant}-pull-requests"
    yield subjects.COMMANDS, pull_requests, taken(manager, subjects.ANY, PULL_REQUEST.name)
    yield subjects.CALLS, f"{manager}-{tenant}-{worker}-calls", taken(manager, worker, subjects.CALL_TOKEN)
    yield subjects.CALLS, f"{manager}-{tenant}-{worker}-checkpoints", taken(manager, worker, subjects.CHECKPOINT_TOKEN)
    yield subjects.COMMANDS, f"{chaos}-{tenant}-{worker}", taken(chaos, worker, EXPERIMENT.name)
    yield subjects.COMMANDS, f"{chaos}-{tenant}", taken(chaos, subjects.ANY, CHAOS.name)


def _users(folder: Path) -> dict[str, User]:
    path = folder / "secrets" / "nats" / USERS_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, User]) if path.exists() else {}
    except msgspec.MsgspecError as error:
        message = f"{path} cannot be read ({error}): it holds the name, key and tenant of each worker."
        raise DeploymentUnfit(message) from error


def _write_users(folder: Path, users: dict[str, User]) -> None:
    control = folder / "secrets" / "nats-control"
    if not control.exists():
        message = f"{folder} holds no deployment: `cairn deploy init --folder {folder}` makes one."
        raise DeploymentUnfit(message)
    place = folder / "secrets" / "nats"
    _replace(place / USERS_FILE, msgspec.json.format(msgspec.json.encode(users)).decode() + "\n")
    _replace(place / "users.conf", users_configuration(_public(control.read_text().strip()), users))


def _seed() -> str:
    return bytes(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)).decode()


def _public(seed: str) -> str:
    return bytes(nkeys.from_seed(bytearray(seed.encode())).public_key).decode()


def _open_folder(path: Path) -> None:
    """A folder that containers are given: whoever reaches it may look into it, whatever the umask."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)


def _once(path: Path, content: str) -> None:
    if not path.exists():
        _replace(path, content)


def _replace(path: Path, content: str) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(content, encoding="utf-8")
    fresh.chmod(0o644)
    fresh.replace(path)
