"""The agent loop in DBOS: ``python peer_dbos.py POSTGRES_URL RUNS STEPS PARTS``, in an environment that has it.

A run is a workflow; an iteration is ``PARTS`` calls of a step function with 1 KiB of arguments and 1 KiB of a result:
one (the whole iteration as one step) or two (the model's answer and the tool's result, each durable, as in Cairn).
Runs go at once, on the threads of DBOS's own pool. Prints iterations a second.
"""

import logging
import sys
import time

from dbos import DBOS

PAYLOAD = "x" * 1024


@DBOS.step()
def act(asked: str) -> str:
    return asked


@DBOS.workflow()
def loop(steps: int, parts: int) -> None:
    said = PAYLOAD
    for _ in range(steps * parts):
        said = act(said)


def main(url: str, runs: int, steps: int, parts: int) -> None:
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR", "enable_otlp": False})
    logging.getLogger("dbos").setLevel(logging.ERROR)
    DBOS.launch()
    DBOS.start_workflow(loop, steps, parts).get_result()
    began = time.perf_counter()
    handles = [DBOS.start_workflow(loop, steps, parts) for _ in range(runs)]
    for handle in handles:
        handle.get_result()
    print(runs * steps / (time.perf_counter() - began))
    DBOS.destroy()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
