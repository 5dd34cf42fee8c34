"""All services over the in-memory plumbing, in virtual time, with faults by seed, and checkers beside them.

==================== ===================================================================================
``loop``             an event loop whose time is virtual: nothing waits, nothing is left to chance
``network``          processes that crash and freeze, and the faults that strike at their steps
``ports``            what a service sees of the plumbing: late, in disorder, twice or not at all
``world``            what outlives processes: workspaces, programs, the remote; in-memory twins of git and shims
``workload``         tasks by seed: what agents do turn by turn, what people answer, how each task is to end
``simulation``       services put together as in their ``__main__``, faults, and the end of it all
``checkers``         what must hold of every log and world, however it came about
``plants``           bugs on purpose, each of which a checker must find
==================== ===================================================================================

A seed decides everything: the same seed gives the same trace, message by message. ``make simulate SEEDS=1000`` runs
the seeds from 0; ``SEED=7`` runs one and prints its trace.

Limits: hosts share one store of git objects; a service's own threads do
not exist here, so that file tools are twins; crashes come between two uses of a port, which is where all effects are.
"""
