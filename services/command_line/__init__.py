"""The ``cairn`` command: starts the stack on this host, and speaks to a gateway over HTTP for everything else."""
