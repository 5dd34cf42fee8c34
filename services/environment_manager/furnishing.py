"""What the processes of an environment run in, once its workspace stands: this host, or a container of its own."""

from __future__ import annotations

from events.errors import Permanent
from events.sandboxes import Sandbox
from services.environment_manager.ports import Sandboxes


async def furnish(
    sandboxes: Sandboxes | None, id: str, isolation: str, sandbox: Sandbox, repository_url: str
) -> tuple[str, str]:
    """The isolation that was asked for as what it becomes here, and the image. Raises ``Permanent``."""
    if sandboxes is None:
        if isolation == "container":
            message = 'this worker has no containers: choose isolation = "worktree" for the project'
            raise Permanent(message, slug="engine-missing")
        return "worktree", ""
    became = await sandboxes.isolation(isolation)
    if became == "worktree":
        return became, ""
    return became, await sandboxes.furnish(id, sandbox, repository_url)
