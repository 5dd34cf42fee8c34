"""A stub gateway, and the command as a user runs it against that."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from services.command_line import console
from services.command_line.commands import app
from tests.command_line.stub_gateway import KEY, StubGateway, stub_gateway

Run = Callable[..., Result]


@pytest.fixture
def gateway() -> Iterator[StubGateway]:
    with stub_gateway() as stub:
        yield stub


@pytest.fixture
def run(gateway: StubGateway) -> Run:
    """``cairn`` with the arguments, against the stub gateway."""

    def run(*arguments: str, input: str | None = None) -> Result:
        return run_alone("--url", gateway.url, "--key", KEY, *arguments, input=input)

    return run


def run_alone(*arguments: str, input: str | None = None) -> Result:
    """``cairn`` with just these arguments. The consoles hold the streams of the test before: they are made anew."""
    console.out.cache_clear()
    console.err.cache_clear()
    return CliRunner().invoke(app, list(arguments), input=input)
