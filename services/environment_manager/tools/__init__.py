"""Executes the tools that are no processes, and says what those see that are.

What cannot be done raises ``ToolRefused``, whose message is for the agent.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from events.tools import Arguments, EditFile, ListFiles, ReadFile, SearchFiles, WriteFile
from services.environment_manager.tools import files, search
from services.environment_manager.tools.refused import ToolRefused
from services.environment_manager.tools.variables import process_environment

__all__ = ["ToolRefused", "execute_file_tool", "process_environment"]


async def execute_file_tool(workspace: Path, arguments: Arguments) -> str:
    """What the tool answers, as text. ``arguments`` name the tool by their type. Raises ``ToolRefused``."""
    match arguments:
        case ReadFile():
            return await asyncio.to_thread(files.read_file, workspace, arguments)
        case WriteFile():
            return await asyncio.to_thread(files.write_file, workspace, arguments)
        case EditFile():
            return await asyncio.to_thread(files.edit_file, workspace, arguments)
        case ListFiles():
            return await search.list_files(workspace, arguments)
        case SearchFiles():
            return await search.search_files(workspace, arguments)
        case _:
            raise ToolRefused("unknown-tool", f"{type(arguments).__name__} is not executed on files.")
