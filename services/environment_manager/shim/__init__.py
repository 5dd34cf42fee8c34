"""Supervises the processes of one environment and outlives the environment-manager that started it.

``server.main`` is run by ``python -I -S -E`` with the directory as its argument. This package imports the standard
library and nothing else of Cairn, so that it starts in some 30 ms. It detaches itself; the command ends as soon as the
shim serves (exit code 0), or with 3 where another shim holds the directory's lock already.

**Processes.** The shim forks one *keeper* for each call, and the keeper forks the call's program. Both are
reapers of orphans (``PR_SET_CHILD_SUBREAPER``): whatever a program leaves behind, however often it forks and calls
``setsid``, stays a descendant of its keeper, so the tree of a call is always known exactly and without guessing. A
keeper ends with its call, once nothing of the tree is left. If the shim dies, its keepers end their trees; if a keeper
dies, the shim does. A program can only escape where it kills both, as it may: they run as the same user.

**Files.** ``calls/CALL/request.json`` stands before the program starts (names of environment variables, no values);
``calls/CALL/output`` is standard output and error, written by the program itself without a pipe between, so that
nothing is lost whoever dies; ``calls/CALL/status.json`` appears at the end, at once and durably. A call that has a
directory is never started again.

**Protocol.** JSON lines over the Unix socket ``shim.sock``. Requests: ``start`` (call, argv, env, limits),
``interrupt`` (call), ``watch`` (call), ``list``, ``close``. Each gets one line; a watched call that runs is followed by
a second line as soon as it ended, and ``close`` by the end of the connection when everything is gone.

**Containers.** In a container the shim is the first process (``server.main_in_container``), so that the container ends
with it, and its socket lies in the environment's directory, which is mounted. What the image says of environment
variables reaches the programs under what their order says. ``relay`` leads from a port of the container to the proxy.

**Limits.** Total time, silence and output size are looked at every 20 to 250 ms, so a fast writer may exceed its
output limit by what it writes meanwhile. The processes share the shim's user: this is supervision, not a sandbox.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs a quarter of the time that the shim takes to start
    from typing import Any

    Json = dict[str, Any]
else:
    Json = dict

SOCKET = "shim.sock"
LOCK = "shim.lock"
LOG = "shim.log"
CALLS = "calls"
WORKSPACE = "workspace"

ENVIRONMENT_VARIABLE = "CAIRN_ENVIRONMENT"
DIRECTORY_VARIABLE = "CAIRN_ENVIRONMENT_DIRECTORY"
CALL_VARIABLE = "CAIRN_CALL"
# Set for the shim of a container that reaches outward; its programs do not see it.
RELAY_VARIABLE = "CAIRN_RELAY"
RELAY_PORT = 3128
EGRESS_SOCKET = "egress.sock"

LOCKED = 3  # exit code: another shim serves this directory
