"""Waiting for what comes about by itself."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait until what ``condition`` answers, awaited where it is to be, holds, and answer it; ``TimeoutError`` where it
    does not in time."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.005)  # What is waited for has no event of its own.
