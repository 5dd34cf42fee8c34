"""``compose_up`` beside plain ``docker compose up -d --wait`` of the same file, the job scheduler of ``tests/systems``.

Images are there, nothing runs, volumes are new. Both take turns. A call of Cairn goes its whole way: the files are
looked at, the model is checked, the start and the end are in the log (in memory here), every service is healthy.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from events.environment import ToolCallCompleted
from tests.bench.table import Row, percentile
from tests.composing import Composing, composing
from tests.deployment import images
from tests.engine import BASE_IMAGE
from tests.job_scheduler import files

ROUNDS = 5
PROJECT = "cairn-bench-compose"
TARGET = 1.2


def run() -> list[Row]:
    variables = {".env": f"BASE={BASE_IMAGE}\nPOSTGRES_IMAGE={images.postgres()}\n"}
    with TemporaryDirectory() as folder:
        plain, ours = asyncio.run(_measure(Path(folder), {**files(), **variables}))
    floor, figure = percentile(plain, 0.5), percentile(ours, 0.5)
    return [
        Row(what="docker compose up -d --wait, five services, p50", sync="", value=f"{floor:.2f} s"),
        Row(
            what="compose_up of the same file, p50",
            sync="",
            value=f"{figure:.2f} s",
            ratio=f"{figure / floor:.2f}",
            floor="docker compose",
            target=f"≤ {TARGET:g}",
        ),
    ]


async def _measure(home: Path, content: dict[str, str]) -> tuple[list[float], list[float]]:
    plain: list[float] = []
    ours: list[float] = []
    async with composing(home) as environment:
        for name, text in content.items():
            environment.write(name, text)
        # The first of each builds the images, and is not counted.
        for _ in range(ROUNDS + 1):
            plain.append(await asyncio.to_thread(_plain, environment.workspace))
            ours.append(await _ours(environment))
    return plain[1:], ours[1:]


def _plain(directory: Path) -> float:
    began = time.perf_counter()
    _compose(directory, "-p", PROJECT, "up", "-d", "--wait")
    took = time.perf_counter() - began
    _remove(PROJECT)
    return took


def _compose(directory: Path, *arguments: str) -> None:
    subprocess.run(["docker", "compose", *arguments], cwd=directory, check=True, capture_output=True)


def _remove(project: str) -> None:
    """At once: what does not heed SIGTERM would take ten seconds."""
    _compose(Path("/"), "-p", project, "kill")
    _compose(Path("/"), "-p", project, "down", "-v", "-t", "1")


async def _ours(environment: Composing) -> float:
    began = time.perf_counter()
    ended, text = await environment.call("compose_up", build=False)
    took = time.perf_counter() - began
    assert isinstance(ended, ToolCallCompleted), text
    await asyncio.to_thread(_remove, environment.compose.project(environment.id))
    return took
