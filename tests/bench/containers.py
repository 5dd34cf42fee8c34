"""From nothing to the end of the first tool call in a container, cold and warm, and what a call costs more than in a
working tree.

The workspace stands already. Cold, a container is made and started; warm, one that runs is taken over. The first call
is ``true``, by the same shim and its socket in both isolations; it is measured until its exit is read.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.docker import labels
from infra.docker.engine import Engine
from infra.settings import Worker
from tests.bench.table import Row, percentile
from tests.containing import OFFLINE, Place
from tests.engine import BASE_IMAGE
from tests.integration.git_examples import repository

ENVIRONMENTS = 20
CALLS = 100
WARM_TARGET_SECONDS = 0.150


def run() -> list[Row]:
    with TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Row]:
    source = repository(folder / "source")
    async with Engine() as engine:
        home = folder / "home"
        cold, warm = (Place(home, engine, Worker(image=BASE_IMAGE, warm_containers=count)) for count in (0, 1))
        try:
            rows = [
                *_rows("cold", await _first_calls(cold, source, "cold", contained=True)),
                *_rows("warm", await _first_calls(warm, source, "warm", contained=True), WARM_TARGET_SECONDS),
                *_rows("working tree", await _first_calls(cold, source, "tree", contained=False)),
            ]
            contained, tree = await _calls(cold, "cold-0"), await _calls(cold, "tree-0")
        finally:
            await warm.sandboxes.close()
            await cold.sandboxes.close()
            for kind in ("cold", "warm", "tree"):
                for number in range(ENVIRONMENTS):
                    await cold.processes.close(f"{kind}-{number}")
            for container in await engine.containers({labels.HOME: str(home)}):
                await engine.remove(container["Id"])
    for what, part in (("p50", 0.5), ("p99", 0.99)):
        figure, floor = percentile(contained, part), percentile(tree, part)
        rows.append(
            Row(
                what=f"a call in a container, {what}",
                sync="",
                value=f"{figure * 1000:.1f} ms",
                ratio=f"{figure / floor:.2f}",
                floor=f"in a working tree: {floor * 1000:.1f} ms",
            )
        )
    return rows


def _rows(kind: str, seconds: list[float], target: float = 0.0) -> list[Row]:
    return [
        Row(
            what=f"environment to the end of its first call, {kind}, {what}",
            sync="",
            value=f"{percentile(seconds, part) * 1000:.0f} ms",
            target=f"< {target * 1000:g} ms" if target and what == "p50" else "",
        )
        for what, part in (("p50", 0.5), ("p99", 0.99))
    ]


async def _first_calls(place: Place, source: Path, kind: str, *, contained: bool) -> list[float]:
    took = []
    for number in range(ENVIRONMENTS + 1):
        id = f"{kind}-{number}"
        await place.workspaces.prepare(id, str(source), base_branch="main", bases=())
        began = time.perf_counter()
        if contained:
            await place.sandboxes.furnish(id, OFFLINE, str(source))
        await place.run(id, "true")
        took.append(time.perf_counter() - began)
        await place.sandboxes.settled()
        if number == ENVIRONMENTS:
            await place.processes.close(id)
    return took[1:]  # The first makes the runtime, and there is none warm before it.


async def _calls(place: Place, id: str) -> list[float]:
    took = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await place.run(id, "true")
        took.append(time.perf_counter() - began)
    return took
