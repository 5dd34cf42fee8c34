"""The end of a process whose output nobody wants any more.

A process of asyncio counts as ended once its output has been read to the end as well, and a reader that has its limit
in hand stops reading: ``Process.wait`` alone may never come back.
"""

from __future__ import annotations

import asyncio

PIECE_BYTES = 65_536


async def ended(process: asyncio.subprocess.Process) -> int:
    """Wait for the end, throw away what is still printed until then, and return the exit code."""
    await asyncio.gather(*(_read_to_end(stream) for stream in (process.stdout, process.stderr) if stream is not None))
    return await process.wait()


async def _read_to_end(stream: asyncio.StreamReader) -> None:
    while await stream.read(PIECE_BYTES):
        pass
