"""``cairn project``: the registry of repositories that work is done in."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer

from services.command_line import console
from services.command_line.failures import INVALID, Failure
from services.command_line.options import AsJson, gateway

commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Repositories that work is done in.")

GIT_SECONDS = 10.0


@commands.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Letters, digits, '-' and '_'.")],
    repo: Annotated[str, typer.Option(help="A path on this host or a URL that git understands.")],
    base: Annotated[str, typer.Option(help="The branch to work from; else the repository's own.")] = "",
    test_command: Annotated[str, typer.Option(help="What the test gate runs, by the shell.")] = "",
    prefix: Annotated[str, typer.Option(help="First part of task ids; else the name.")] = "",
    agents_at_once: Annotated[int, typer.Option(min=1, max=5)] = 3,
    max_attempts: Annotated[int, typer.Option(min=1, help="How often an agent that fails is tried.")] = 2,
    role: Annotated[list[str] | None, typer.Option(metavar="ROLE=AGENT", help="Who takes a role; repeatable.")] = None,
    secret: Annotated[
        list[str] | None, typer.Option(metavar="NAME=env:X", help="A variable of the processes; repeatable.")
    ] = None,
    on_divergence: Annotated[
        str, typer.Option(help="Where a run finds the world other than the log tells: ask, restore, accept, abandon.")
    ] = "ask",
    isolation: Annotated[
        str, typer.Option(help="Where its agents work: container or worktree; else what the worker has.")
    ] = "",
    image: Annotated[
        str, typer.Option(help="What its containers are made of: a name, or dockerfile[:PATH] of the repository.")
    ] = "",
    network: Annotated[
        str, typer.Option(help="What its containers reach: none, services (composed ones) or outward.")
    ] = "outward",
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A host that they reach outward, or *.DOMAIN; else every public one.")
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="Cores of a container; else the worker's limit.")] = 0.0,
    memory_mb: Annotated[int, typer.Option(min=0, help="MiB of a container; else the worker's limit.")] = 0,
    pids: Annotated[int, typer.Option(min=0, help="Processes of a container; else the worker's limit.")] = 0,
    compose_allow: Annotated[
        list[str] | None,
        typer.Option(help="What its Compose files may ask for all the same, such as privileged; repeatable."),
    ] = None,
    pipeline: Annotated[Path | None, typer.Option(help="Stages, as a .json or .toml file; else the built-in.")] = None,
    as_json: AsJson = False,
) -> None:
    """Add a repository as a project."""
    body: dict[str, Any] = {
        "name": name,
        "repository": {"url": checked_repository(repo, base), "base_branch": base},
        "test_command": test_command,
        "prefix": prefix,
        "agents_at_once": agents_at_once,
        "max_attempts": max_attempts,
        "roles": pairs(role or [], "--role", "ROLE=AGENT"),
        "secrets": pairs(secret or [], "--secret", "NAME=env:VARIABLE"),
        "on_divergence": on_divergence,
        "compose_allow": compose_allow or [],
        "isolation": isolation,
        "sandbox": {
            "image": image,
            "network": network,
            "allowed_hosts": allow_host or ["*"],
            "cpus": cpus,
            "memory_mb": memory_mb,
            "pids": pids,
        },
    }
    if pipeline is not None:
        body["pipeline"] = read_pipeline(pipeline)
    with gateway(context) as api:
        answer = api.post("/projects", body)
    if as_json:
        console.show_json(answer)
        return
    console.say(f"Project {name} is there.", style="green")
    console.note(f'Next: cairn task submit {name} "what is to be done" --agent AGENT --wait')


@commands.command("list")
def list_projects(context: typer.Context, as_json: AsJson = False) -> None:
    """All projects."""
    with gateway(context) as api:
        rows = api.items("/projects")
    if as_json:
        console.show_json(rows)
        return
    console.table(
        ["project", "repository", "base", "test command"],
        [(row["id"], row["repository_url"], row["base_branch"], row["test_command"]) for row in rows],
        empty="There is no project yet: cairn project add NAME --repo PATH_OR_URL",
    )


@commands.command("show")
def show(context: typer.Context, name: str, as_json: AsJson = False) -> None:
    """One project with its settings."""
    with gateway(context) as api:
        row = api.get(f"/projects/{name}")
    if as_json:
        console.show_json(row)
        return
    settings = row["settings"]
    console.fields(
        {
            "project": row["id"],
            "repository": row["repository_url"],
            "base branch": row["base_branch"] or "the repository's own",
            "test command": row["test_command"],
            "task ids": f"{row['prefix']}-N",
            "agents at once": row["agents_at_once"],
            "attempts": settings.get("max_attempts", 2),
            "on divergence": settings.get("on_divergence", "ask"),
            "isolation": settings.get("isolation", "worktree") or "what the worker has",
            "container": [f"{key} {value}" for key, value in settings.get("sandbox", {}).items()],
            "roles": [f"{role} → {agent}" for role, agent in settings.get("roles", {}).items()],
            "secrets": [f"{name} from {reference}" for name, reference in settings.get("secrets", {}).items()],
            "stages": [stage["name"] for stage in row["pipeline"]["stages"]],
            "added": console.when(row["created_at"]),
        }
    )


def checked_repository(repo: str, base: str = "") -> str:
    """``repo`` as the worker can use it: a path is made absolute and must be a repository with commits.

    Anything with a scheme or in the form ``host:path`` is a URL and goes as it is.
    """
    if "://" in repo or (":" in repo.split("/")[0] and not Path(repo).exists()):
        return repo
    path = Path(repo).expanduser().absolute()
    if not path.exists():
        message = f"{path} does not exist."
        raise Failure(message, hint="--repo is a path on this host or a URL that git understands.", exit_code=INVALID)
    inside = _git(path, "rev-parse", "--git-dir")
    if inside.returncode != 0:
        message = f"{path} is no git repository."
        hint = f"Make it one: git -C {path} init && git -C {path} add -A && git -C {path} commit -m 'Begin'"
        raise Failure(message, hint=hint, exit_code=INVALID)
    if _git(path, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").returncode != 0:
        message = f"{path} has no commits yet."
        hint = f"Make the first one: git -C {path} add -A && git -C {path} commit -m 'Begin'"
        raise Failure(message, hint=hint, exit_code=INVALID)
    if base and _git(path, "rev-parse", "--verify", "--quiet", f"refs/heads/{base}").returncode != 0:
        message = f"{path} has no branch {base!r}."
        raise Failure(message, hint=f"Its branches: git -C {path} branch", exit_code=INVALID)
    top = _git(path, "rev-parse", "--show-toplevel")
    return top.stdout.strip() if top.returncode == 0 and top.stdout.strip() else str(path)


def _git(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if not path.is_dir():
        return subprocess.CompletedProcess(arguments, 1, "", "")
    try:
        return subprocess.run(
            ["git", "-C", str(path), *arguments], capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except FileNotFoundError as error:
        message = "git is not installed."
        raise Failure(message, hint="Install git 2.38 or newer; `cairn doctor` checks what else is needed.") from error
    except subprocess.TimeoutExpired as error:
        message = f"git did not answer about {path} within {GIT_SECONDS:.0f} s."
        raise Failure(message) from error


def pairs(items: list[str], option: str, form: str) -> dict[str, str]:
    """``NAME=VALUE`` options as a mapping."""
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            message = f"{option} {item!r} is not of the form {form}."
            raise Failure(message, exit_code=INVALID)
        found[name] = value
    return found


def read_pipeline(path: Path) -> Any:
    """The pipeline in a file, checked with the rules that the scheduler has."""
    import msgspec

    from events.errors import Invalid
    from events.pipeline import Pipeline, checked

    try:
        data = path.read_bytes()
        if path.suffix == ".toml":
            import tomllib

            raw = tomllib.loads(data.decode())
        else:
            raw = msgspec.json.decode(data)
        checked(msgspec.convert(raw, Pipeline))
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror})."
        raise Failure(message, exit_code=INVALID) from error
    except (ValueError, msgspec.MsgspecError, Invalid) as error:
        message = f"{path} holds no pipeline: {error}"
        raise Failure(message, exit_code=INVALID) from error
    return raw
