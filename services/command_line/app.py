"""The commands, put together. Every ``CairnError`` becomes one line and an exit code here, never a traceback."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from events.errors import CairnError
from services.command_line import console
from services.command_line.failures import FAILED, Failure
from services.command_line.options import Target


class CairnGroup(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CairnError as error:
            failure = error if isinstance(error, Failure) else Failure(str(error), exit_code=FAILED)
            console.show_failure(failure)
            raise typer.Exit(failure.exit_code) from error


app = typer.Typer(
    name="cairn",
    cls=CairnGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="The gateway; else CAIRN_URL, else the stack found here.")] = None,
    key: Annotated[str | None, typer.Option(help="The API key; else CAIRN_KEY, else the stack's own.")] = None,
) -> None:
    """Dispatches AI coding agents to tasks in real repositories, and remembers every step.

    Start with `cairn up`; everything else speaks to it over HTTP.

    Exit codes: 0 done, 1 what was asked for failed, 2 invalid input, 3 no Cairn reached, 4 not found.
    """
    target = Target()
    target.url, target.key = url, key
    context.obj = target
