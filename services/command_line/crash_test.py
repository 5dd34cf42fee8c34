"""``cairn crash-test``: the crash matrix over an agent of one's own, and whether its tools are what they declare.

Everything happens in a scratch directory: a bare copy of the repository that branches are pushed to, a home with its
own servers and services. The stack that may run here is only asked for the project's settings.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.command_line import console
from services.command_line.client import nearest_home
from services.command_line.failures import FAILED, INVALID, Failure
from services.command_line.options import AsJson, gateway

if TYPE_CHECKING:
    from events.agents import Agent
    from events.project import ProjectSettings
    from infra.faults.trial import Report

DEFAULT_POINTS = 12


def crash_test(
    context: typer.Context,
    project: Annotated[str, typer.Argument(help="A project of the Cairn that runs here, or a repository's path.")],
    agent: Annotated[str, typer.Option(help="The agent of cairn.toml whose work is disturbed.")],
    task: Annotated[str, typer.Option(help="What it is to do; it must be able to complete it.")] = "Crash test",
    test_command: Annotated[str, typer.Option(help="What the test gate runs; else the project's.")] = "",
    points: Annotated[int, typer.Option(min=0, help="How many points of the log to crash at.")] = DEFAULT_POINTS,
    seed: Annotated[int, typer.Option(help="Chooses the points.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Kill services at points of an agent's work, on a scratch copy; check what its tools declare.

    The agent's model is asked once, then what it said is played back. Exit code 1: something did not hold.
    """
    import msgspec

    from infra.faults.laboratory import PROJECT

    described = _agent(agent)
    settings = _project(context, project)
    directory = Path(tempfile.mkdtemp(prefix="cairn-crash-test-"))
    began = time.monotonic()
    url = _copy(settings.repository.url, directory / "repository.git")
    settings = msgspec.structs.replace(
        settings,
        repository=msgspec.structs.replace(settings.repository, url=url),
        prefix=PROJECT,
        test_command=test_command or settings.test_command,
    )
    report = asyncio.run(_run(directory / "lab", settings, described, task, points, seed))
    if as_json:
        console.show_json(_json(report, seed))
    else:
        _tell(report, seed, time.monotonic() - began)
    if not report.holds:
        console.note(f"The logs of the services are in {directory / 'lab' / '.cairn' / 'logs'}.")
        raise typer.Exit(FAILED)
    shutil.rmtree(directory, ignore_errors=True)


def _agent(name: str) -> Agent:
    from infra.settings import FILE_NAME, load

    home = nearest_home()
    beside = home.parent / FILE_NAME if home is not None else None
    agents = load(beside if beside is not None and beside.is_file() else None).agents
    if name not in agents:
        message = f"there is no agent {name!r}; in {FILE_NAME} there are: {', '.join(sorted(agents)) or 'none'}."
        raise Failure(message, exit_code=INVALID)
    return agents[name]


def _project(context: typer.Context, name: str) -> ProjectSettings:
    import msgspec

    from events.project import ProjectSettings, Repository

    if Path(name).is_dir():
        return ProjectSettings(repository=Repository(url=str(Path(name).absolute())), prefix="")
    with gateway(context) as api:
        row = api.get(f"/projects/{name}")
    return msgspec.convert(row["settings"], ProjectSettings)


def _copy(url: str, target: Path) -> str:
    command = ("git", "clone", "--quiet", "--bare", url, str(target))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        message = f"{url} could not be copied: {done.stderr.strip()}"
        raise Failure(message, exit_code=INVALID)
    return str(target)


async def _run(directory: Path, settings: ProjectSettings, agent: Agent, title: str, points: int, seed: int) -> Report:
    import logging

    from infra.faults.declared import wrapped
    from infra.faults.laboratory import Laboratory
    from infra.faults.trial import AGENT, try_agent

    # That connections break is what this is about.
    logging.getLogger("cairn").setLevel(logging.ERROR)
    laboratory = Laboratory(directory, {}, settings)
    laboratory.add_agent(AGENT, wrapped(agent, laboratory.executions))
    with console.err().status("starting …") as status:
        try:
            await laboratory.start()
            return await try_agent(
                laboratory, agent, title, count=points, seed=seed, say=lambda text: status.update(f"{text} …")
            )
        finally:
            status.update("stopping …")
            await laboratory.stop()


def _json(report: Report, seed: int) -> dict[str, Any]:
    import msgspec

    return {
        "holds": report.holds,
        "seed": seed,
        "appends": report.appends,
        "compared": report.compared,
        "points": [
            {
                "point": str(verdict.point),
                "append": verdict.trial.struck.subject if verdict.trial.struck is not None else None,
                "seconds": round(verdict.trial.seconds, 2),
                "problems": list(verdict.problems),
            }
            for verdict in report.verdicts
        ],
        "tools": [{**msgspec.to_builtins(finding), "holds": finding.holds} for finding in report.findings],
    }


def _tell(report: Report, seed: int, seconds: float) -> None:
    failed = [verdict for verdict in report.verdicts if verdict.problems]
    console.say(
        f"{len(report.verdicts)} crashes in a task of {report.calls} calls and {report.appends} appends, "
        f"{len(failed)} failures, seed {seed}, {seconds:.0f} s",
        style="green" if report.holds else "red",
    )
    console.note(f"Compared with the undisturbed task: {report.compared}.")
    for verdict in failed:
        console.say(f"\n{verdict.point}", style="red")
        for problem in verdict.problems[:10]:
            console.say(f"  {console.shortened(problem, 300)}")
    rows = [
        (
            finding.tool,
            finding.effects,
            finding.retry if finding.effects == "external" else "",
            finding.calls,
            finding.executions,
            "; ".join(finding.problems) or ("holds" if finding.tried else "never called"),
        )
        for finding in report.findings
    ]
    columns = ["tool", "effects", "retry", "calls a task", "executions", "what it declares"]
    console.table(columns, rows, empty="The agent declares no tools of its own.")
