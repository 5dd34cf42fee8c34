"""Every command under its name."""

from __future__ import annotations

from services.command_line import (
    bundles,
    chaos,
    crash_test,
    demo,
    deploying,
    doctor,
    environments,
    forking,
    history,
    keys,
    operations,
    projects,
    pull_requests,
    read_models,
    replaying,
    stack_commands,
    tasks,
)
from services.command_line.app import app
from services.command_line.options import AsJson

__all__ = ["app"]


def version(as_json: AsJson = False) -> None:
    """The version of Cairn."""
    from importlib.metadata import version as version_of

    from services.command_line import console

    if as_json:
        console.show_json({"version": version_of("cairn")})
    else:
        console.say(f"cairn {version_of('cairn')}")


app.command()(stack_commands.up)
app.command()(stack_commands.down)
app.command()(stack_commands.status)
app.command()(demo.demo)
app.command()(crash_test.crash_test)
app.command()(doctor.doctor)
app.add_typer(projects.commands, name="project")
app.add_typer(tasks.commands, name="task")
app.add_typer(pull_requests.commands, name="pr")
app.add_typer(environments.commands, name="environment")
app.add_typer(environments.compose, name="compose")
app.add_typer(chaos.commands, name="chaos")
app.command()(history.logs)
app.command()(history.events)
app.command()(replaying.replay)
app.command()(forking.fork)
app.command()(bundles.export)
app.command("import")(bundles.import_bundle)
app.command()(bundles.imports)
app.command()(operations.queue)
app.command()(operations.environments)
app.command()(operations.notifications)
app.add_typer(operations.dead_letters, name="dead-letters")
app.add_typer(operations.agents, name="agents")
app.add_typer(deploying.commands, name="deploy")
app.add_typer(keys.commands, name="key")
app.add_typer(read_models.commands, name="projector")
app.command()(version)
