"""The main process of a container, killed from the host, so that its restart policy acts as after a crash.

The engine does not restart a container that was killed through its own interface. Needs pid=host and CAP_KILL. The
process is opened first and looked at then: a pid that meanwhile belongs to somebody else is never hit.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from services.chaos.holder.order import Refused


def crash(pid: int, container: str) -> None:
    """Raises ``Refused`` where the process is not of that container."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return  # It is dead already.
    try:
        groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
        if len(container) != 64 or container not in groups:
            message = f"process {pid} is not of container {container[:12]}"
            raise Refused(message)
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return
    except PermissionError as error:
        message = f"process {pid} cannot be killed from here: {error.strerror}"
        raise Refused(message) from error
    finally:
        os.close(process)
