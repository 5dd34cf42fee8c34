"""Whether the program of an agent can be run here: the very file that would be, tried with harmless arguments.

It is started in an empty folder, without any of this service's variables but the search path, and killed with all of
its process group where it does not end in time.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence

from events.preflight import Finding
from infra.subprocesses import ended

ANSWER_SECONDS = 5.0
SAID_BYTES = 4096
# What a program says that it does not know the option; 2 is the usual code for that.
FIT_CODES = (0, 2)


async def try_program(program: str, arguments: Sequence[str], *, answer_seconds: float = ANSWER_SECONDS) -> Finding:
    """What is found; nothing is raised."""
    path = shutil.which(program)
    if path is None:
        return Finding(problem=f"{program!r} is not there, or may not be executed")
    if not arguments:
        return Finding()
    shown = " ".join((program, *arguments))
    with tempfile.TemporaryDirectory(prefix="cairn-preflight-") as folder:
        try:
            process = await asyncio.create_subprocess_exec(
                path,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=folder,
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": folder, "LANG": "C.UTF-8", "TERM": "dumb"},
                start_new_session=True,
            )
        except OSError as error:
            return Finding(problem=f"{program!r} cannot be started: {error.strerror}")
        assert process.stdout is not None
        try:
            async with asyncio.timeout(answer_seconds):
                said = await process.stdout.read(SAID_BYTES)
                code = await ended(process)
        except TimeoutError:
            # It was not waited for yet, so that its number is nobody else's.
            os.killpg(process.pid, signal.SIGKILL)
            await ended(process)
            return Finding(problem=f"`{shown}` did not end within {answer_seconds:g} s")
    first = said.decode(errors="replace").strip().partition("\n")[0][:200]
    if code not in FIT_CODES:
        return Finding(problem=f"`{shown}` ended with exit code {code}" + (f": {first}" if first else ""))
    return Finding(said=first)
