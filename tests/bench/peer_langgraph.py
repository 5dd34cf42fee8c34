"""The agent loop in LangGraph: ``python peer_langgraph.py POSTGRES_URL RUNS STEPS PARTS``, in an environment that
has it.

A run is a thread of a graph whose nodes take 1 KiB from the state and put 1 KiB into it: one node, or two (model and
tool) that take turns, for ``PARTS``. The state holds the last message only, which is the least that can be written;
``durability="sync"`` has every step in PostgreSQL before the next one begins. Prints iterations a second.
"""

import asyncio
import sys
import time
import uuid
from typing import Any, TypedDict

import uvloop
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

PAYLOAD = "x" * 1024
CONNECTIONS = 20


class State(TypedDict):
    left: int
    said: str


async def act(state: State) -> State:
    return {"left": state["left"] - 1, "said": state["said"]}


async def answer(state: State) -> dict[str, str]:
    return {"said": state["said"]}


def graph(parts: int, saver: AsyncPostgresSaver) -> Any:
    built = StateGraph(State)
    first = "model" if parts == 2 else "tool"
    built.add_node("tool", act)
    built.add_edge(START, first)
    if parts == 2:
        built.add_node("model", answer)
        built.add_edge("model", "tool")
    built.add_conditional_edges("tool", lambda state: first if state["left"] else END)
    return built.compile(checkpointer=saver)


async def main(url: str, runs: int, steps: int, parts: int) -> None:
    connection = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(url, min_size=CONNECTIONS, max_size=CONNECTIONS, kwargs=connection) as pool:
        await AsyncPostgresSaver(pool).setup()

        async def run() -> None:
            # A saver lets one query through at a time: each run has its own.
            config = {"configurable": {"thread_id": str(uuid.uuid4())}, "recursion_limit": steps * parts + 10}
            compiled = graph(parts, AsyncPostgresSaver(pool))
            await compiled.ainvoke({"left": steps, "said": PAYLOAD}, config, durability="sync")

        await run()
        began = time.perf_counter()
        await asyncio.gather(*(run() for _ in range(runs)))
        print(runs * steps / (time.perf_counter() - began))


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], *map(int, sys.argv[2:])))
