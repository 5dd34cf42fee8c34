"""Settings: one file, overridden by environment variables, checked when they are read.

``cairn.toml`` holds the sections below and the agents (``[agents.NAME]``, see ``events.agents``). Every setting of
``Settings`` can also be given as an environment variable: ``CAIRN_`` and the name in capitals, with ``__`` between
section and name (``CAIRN_NATS__URL``). A name that is not known is an error, not silence.
"""

from __future__ import annotations

import difflib
import os
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from events.agents import Agent, ModelAgent
from events.errors import CairnError, Invalid
from events.names import checked_name

FILE_NAME = "cairn.toml"


class SettingsInvalid(CairnError):
    """The settings cannot be used; the message names the file, the setting and what to write instead."""


class Nats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``credentials_file`` is a NATS credentials file, or holds nothing but the seed of an nkey.

    ``inbox`` is the first token of the subjects that answers come to: a user who may not see the answers of others has
    one of its own, which begins with ``_INBOX``.

    With ``tls_ca``, a file with the certificates of authorities, the connection must be encrypted, and the server must
    show a certificate of one of these; with a ``tls://`` address and no ``tls_ca``, of one that this host trusts.
    ``tls_cert`` and ``tls_key`` are this client's own, where the server asks for one.

    ``manage_streams`` is false where an operator makes the streams: then they are verified, not created.

    ``sync`` is what the operator says of the servers' ``sync_interval``; ``monitor_url`` is the monitoring address of
    one of them, where that can be asked. Both are only shown (see ``infra.durability``).
    """

    url: str = "nats://127.0.0.1:4222"
    credentials_file: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    inbox: str = "_INBOX"
    replicas: int = 1
    manage_streams: bool = True
    sync: Literal["unknown", "always", "interval"] = "unknown"
    monitor_url: str = ""

    @property
    def is_encrypted(self) -> bool:
        """Whether nothing may be said in the clear."""
        return bool(self.tls_ca or self.tls_cert) or "tls://" in self.url

    @property
    def shown_url(self) -> str:
        """``url`` as it may be shown: without user and password."""
        parts = (urlsplit(part.strip()) for part in self.url.split(","))
        return ",".join(part._replace(netloc=part.netloc.rpartition("@")[2]).geturl() for part in parts)


class Postgres(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``password`` is a reference; it is put into ``url`` where that is used."""

    url: str = ""
    password: str = ""


class Gateway(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``key`` is a reference to the API key named ``local``; where it is empty the gateway makes one."""

    key: str = ""
    host: str = "127.0.0.1"
    port: int = 8420
    max_body_bytes: int = 1_048_576
    outcome_timeout_seconds: float = 5.0


class Scheduling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``agents_at_once`` bounds all agents of all projects.

    A run that its provider left without answers is tried again ``transient_attempts`` times, after a wait that begins
    at ``backoff_seconds`` and doubles; ``breaker_failures`` in a row keep everything from that provider for
    ``breaker_seconds``.
    """

    agents_at_once: int = 10
    retry_delay_seconds: float = 1.0
    reconcile_seconds: float = 5.0
    transient_attempts: int = 5
    backoff_seconds: float = 10.0
    breaker_failures: int = 3
    breaker_seconds: float = 300.0


class Worker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``lease_seconds`` is how long a run waits for its runner to show life before another one takes it.

    ``bundle_checkpoints`` keeps every checkpoint in the content store too, so that another host can take over when
    this one is lost; ``auto`` is ``always``, but for `cairn up`, which is one host.
    ``model_backoff_seconds`` is the first wait for a model that flinched; it doubles up to 600 s.
    ``preflight_seconds`` is how long it counts what was found out about the programs of agents.

    ``isolation`` is where the work of projects that leave it open takes place: ``auto`` is a container where a Docker
    engine answers, else a working tree. ``image`` is what containers are made of where a project names none. ``cpus``,
    ``memory_mb`` and ``pids`` are the most that a container gets. ``warm_containers`` are kept ready for each kind of
    container in use.
    """

    host: str = ""
    agents_at_once: int = 64
    lease_seconds: float = 15.0
    model_backoff_seconds: float = 10.0
    preflight_seconds: float = 45.0
    grace_seconds: float = 20.0
    output_limit_bytes: int = 1_073_741_824
    bundle_checkpoints: Literal["auto", "always", "never"] = "auto"
    isolation: Literal["auto", "container", "worktree"] = "auto"
    image: str = "buildpack-deps:bookworm"
    cpus: float = 2.0
    memory_mb: int = 4096
    pids: int = 1024
    warm_containers: int = 1


class Chaos(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``projects`` are Compose projects that Cairn did not make and that experiments may have as target nevertheless
    (``compose:NAME``). ``protected`` are services or containers that no fault may hit, whatever the target.

    ``image`` holds faults in place; where it is missing, it is built from ``base_image``.
    """

    projects: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    faults_at_once: int = 4
    longest_fault_seconds: float = 600.0
    image: str = "cairn-faults"
    base_image: str = "debian:trixie-slim"


class Webhook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``secret`` is a reference; ``events`` are event types, all that notify where it is empty.

    ``allow_private_addresses`` lets the webhook lead to loopback and private addresses.
    """

    url: str
    secret: str
    events: tuple[str, ...] = ()
    allow_private_addresses: bool = False


class Telemetry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``otlp_endpoint`` is the base URL of an OTLP/HTTP receiver; empty switches the export off.

    ``health_port`` is where a service answers /health, /ready and /metrics; 0 picks a free one, -1 switches it off.
    """

    otlp_endpoint: str = ""
    log_level: str = "info"
    log_format: str = "json"
    health_host: str = "127.0.0.1"
    health_port: int = 0


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``home`` is where everything that Cairn keeps on this host lies."""

    tenant: str = "default"
    home: str = ".cairn"
    nats: Nats = Nats()
    postgres: Postgres = Postgres()
    gateway: Gateway = Gateway()
    scheduling: Scheduling = Scheduling()
    worker: Worker = Worker()
    chaos: Chaos = Chaos()
    telemetry: Telemetry = Telemetry()
    webhooks: dict[str, Webhook] = {}
    agents: dict[str, Agent] = {}

    @property
    def home_path(self) -> Path:
        return Path(self.home).absolute()

    @property
    def host(self) -> str:
        """The worker's name, one subject token."""
        name = self.worker.host or socket.gethostname()
        return "".join(c if c.isalnum() or c in "-_" else "-" for c in name) or "worker"


def file_path(environ: Mapping[str, str] | None = None) -> Path:
    """The settings file that ``load`` reads: ``$CAIRN_SETTINGS``, else ``cairn.toml`` here; it need not exist."""
    environ = os.environ if environ is None else environ
    return Path(environ.get("CAIRN_SETTINGS") or FILE_NAME)


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of ``path`` (``$CAIRN_SETTINGS``, else ``cairn.toml`` here where it exists), with the environment
    over it. Raises ``SettingsInvalid``."""
    environ = os.environ if environ is None else environ
    file = path or file_path(environ)
    if not file.is_file() and (path is not None or environ.get("CAIRN_SETTINGS")):
        message = f"the settings file {file} does not exist."
        raise SettingsInvalid(message)
    raw: dict[str, Any] = {}
    if file.is_file():
        try:
            raw = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            message = f"{file} is no valid TOML: {error}."
            raise SettingsInvalid(message) from error
    _overlay(raw, environ)
    try:
        settings = msgspec.convert(raw, Settings, strict=False)
        for name, agent in settings.agents.items():
            checked_name(name, "agent")
            _check_tools(name, agent)
        for name in settings.webhooks:
            checked_name(name, "webhook")
        checked_name(settings.tenant, "tenant")
    except (msgspec.ValidationError, CairnError) as error:
        message = f"{file}: {_hint(str(error))}"
        raise SettingsInvalid(message) from error
    return msgspec.structs.replace(settings, agents=_beside(file, settings.agents))


def _check_tools(name: str, agent: Agent) -> None:
    """Raises ``Invalid`` for a tool that could not be called, or not be resolved as it declares."""
    if not isinstance(agent, ModelAgent) or not agent.tools:
        return
    from events import tools

    for tool, declared in agent.tools.items():
        checked_name(tool, "tool")
        place = f"agents.{name}.tools.{tool}"
        if tools.find(tool) is not None:
            message = f"{place}: every agent has a tool of that name; choose another one."
            raise Invalid(message)
        if not declared.command:
            message = f"{place}: its command is empty."
            raise Invalid(message)
        if (declared.retry == "probe") != bool(declared.probe):
            message = f'{place}: retry = "probe" and the command that is asked, probe = […], belong together.'
            raise Invalid(message)
        if declared.retry != "never" and declared.effects != "external":
            message = f'{place}: retry is for effects = "external"; what it is for others follows from their effects.'
            raise Invalid(message)


def _beside(file: Path, agents: dict[str, Agent]) -> dict[str, Agent]:
    """The agents with their transcripts' paths made absolute: they are relative to the settings file."""
    return {
        name: msgspec.structs.replace(agent, transcript=str(file.absolute().parent / agent.transcript))
        if isinstance(agent, ModelAgent) and agent.transcript
        else agent
        for name, agent in agents.items()
    }


_NOT_SETTINGS = {"CAIRN_SETTINGS", "CAIRN_URL", "CAIRN_KEY", "CAIRN_PROMPT_FILE"}


def _overlay(raw: dict[str, Any], environ: Mapping[str, str]) -> None:
    sections = {field.name for field in msgspec.structs.fields(Settings)}
    for variable, value in environ.items():
        if not variable.startswith("CAIRN_") or variable in _NOT_SETTINGS:
            continue
        head, *rest = variable.removeprefix("CAIRN_").lower().split("__")
        if head not in sections or len(rest) > 1:
            continue  # Others may use the prefix too: an agent sees CAIRN_ variables of its own.
        if rest:
            raw.setdefault(head, {})[rest[0]] = value
        else:
            raw[head] = value


_SECTIONS = (Settings, Nats, Postgres, Gateway, Scheduling, Worker, Chaos, Webhook, Telemetry)


def _hint(message: str) -> str:
    """msgspec's message with the nearest known name beside a misspelt one."""
    if "unknown field" not in message:
        return message
    wrong = message.split("`")[1]
    known = {name for struct in (*_SECTIONS, *_agent_structs()) for name in struct.__struct_fields__}
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"{message}. Did you mean `{near[0]}`?" if near else message


def _agent_structs() -> tuple[Any, ...]:
    from events import agents

    return (agents.ModelAgent, agents.ProgramAgent, agents.CommandTool, agents.Limits, agents.Price)
