"""In-memory twins of the plumbing: the same behaviour without servers, threads or the clock of the wall.

Everything happens on the event loop, in the order of its callbacks, and waits on a ``Clock``; with ``ManualClock`` a
run is the same every time. One ``Memory`` is the server that all services of a simulation share.
"""

from infra.memory.plumbing import Memory

__all__ = ["Memory"]
