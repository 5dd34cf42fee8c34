"""Cairn's agent loop beside the same loop in DBOS and LangGraph: ``python -m tests.bench.peers [--output FILE]``.

The peers are installed into ``.venv-peers`` and run one after another over a PostgreSQL of the embedded kind, whose
every commit waits for the disk; Cairn's fair match is ``sync: always``. They run their steps inside one process, on
the program's own data; Cairn crosses two processes a step. Each peer runs twice: with an iteration as one durable
step, and with the model's answer and the tool's result as one each, which is what Cairn records.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import uvloop

from events import subjects
from infra.embedded.postgres_server import PostgresServer
from tests.bench import agent_loop, worker
from tests.bench.table import Row, machine, markdown

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv-peers"
PYTHON = ENVIRONMENT / "bin" / "python"
INSTALLED = ENVIRONMENT / ".installed"
REQUIREMENTS = (
    "dbos==3.4.0",
    "langgraph==1.2.22",
    "langgraph-checkpoint-postgres==3.2.0",
    "psycopg[binary,pool]==3.3.9",
    "uvloop==0.23.0",
)
PEERS = {"DBOS": "peer_dbos.py", "LangGraph": "peer_langgraph.py"}
PARTS = {1: "one step an iteration", 2: "two steps an iteration"}
PEER_SECONDS = 300.0
ROUNDS = 3


def install() -> None:
    wanted = "\n".join(REQUIREMENTS)
    if INSTALLED.exists() and INSTALLED.read_text(encoding="utf-8") == wanted:
        return
    print("installing the peers into .venv-peers …", file=sys.stderr, flush=True)
    subprocess.run((sys.executable, "-m", "venv", ENVIRONMENT), check=True)
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    subprocess.run((*pip, *REQUIREMENTS), check=True)
    INSTALLED.write_text(wanted, encoding="utf-8")


def peer_rate(script: str, url: str, parts: int, runs: int) -> float:
    """Iterations a second of a peer."""
    arguments = (url, str(runs), str(agent_loop.STEPS), str(parts))
    answer = subprocess.run(
        (PYTHON, Path(__file__).with_name(script), *arguments),
        capture_output=True,
        text=True,
        timeout=PEER_SECONDS,
        check=False,
    )
    if answer.returncode != 0:
        raise RuntimeError(f"{script} failed: {answer.stderr[-2000:]}")
    return float(answer.stdout.split()[-1])


def own_rate(sync_always: bool, runs: int) -> float:
    """Iterations a second of Cairn, by a worker that is there only for this: nothing of it runs beside the peers."""
    names = (subjects.ENVIRONMENT_MANAGER, subjects.AGENT_RUNNER)
    with (
        worker.directory() as home,
        worker.nats_server(home, sync_always=sync_always) as settings,
        worker.services(settings, names),
    ):
        transcript = agent_loop.write_transcript(home / "turns.json")
        repository = worker.repository(home / "repository")
        uvloop.run(agent_loop.measure(settings, transcript, repository, 1, "warm"))
        return uvloop.run(agent_loop.measure(settings, transcript, repository, runs, "bench"))[0]


@contextlib.contextmanager
def peers() -> Iterator[dict[tuple[str, int], Callable[[int], float]]]:
    """What tells the iterations a second of so many runs, by peer and steps an iteration."""
    with tempfile.TemporaryDirectory(prefix="cairn-peers-", ignore_cleanup_errors=True) as path:
        postgres = PostgresServer(Path(path) / "postgres")
        with postgres.start():
            yield {
                (name, parts): functools.partial(peer_rate, script, postgres.url, parts)
                for parts in PARTS
                for name, script in PEERS.items()
            }


def measure() -> list[Row]:
    """Everything in turns, so that all meet the same machine; the best of the rounds counts."""
    rows = []
    with peers() as rates:
        measured: dict[tuple[str, str], Callable[[int], float]] = {
            ("Cairn", sync): functools.partial(own_rate, sync == "always") for sync in ("always", "default")
        }
        measured |= {(f"{name}, {PARTS[parts]}", "PostgreSQL, fsync"): rate for (name, parts), rate in rates.items()}
        for runs in agent_loop.RUNS:
            best = dict.fromkeys(measured, 0.0)
            for _ in range(ROUNDS):
                for key, rate in measured.items():
                    best[key] = max(best[key], rate(runs))
            own = best["Cairn", "always"]
            rows += [_row(f"{runs} at once: {what}", sync, rate, own) for (what, sync), rate in best.items()]
    return rows


def _row(what: str, sync: str, rate: float, own: float) -> Row:
    ratio = f"{rate / own:.2f}"
    return Row(what=what, sync=sync, value=f"{rate:,.0f} iterations/s", ratio=ratio, floor="Cairn with always")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/bench-peers.md"))
    arguments = parser.parse_args()
    # So that whoever ends it leaves no process of it behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    install()
    title = f"The agent loop beside its peers ({', '.join(REQUIREMENTS[:3])}), {agent_loop.STEPS} iterations a run"
    text = f"{machine()}\n{markdown(title, measure())}"
    print(text)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
