"""Divergence: the world is not as the log tells it, and a run must not go on before somebody chose what holds.

====================== ================================================================================
kind                   found
====================== ================================================================================
workspace              files were changed while no call ran
checkpoint             the last checkpoint is not where it was kept
session                an agent program's own record of its session is behind or ahead of the log
configuration          prompt, tools or model are not those that the run began with
====================== ================================================================================

====================== ================================================================================
choice                 what follows
====================== ================================================================================
restore                the world is made as the log tells it: last checkpoint, session, configuration
accept                 the log is told the world as it is: a new checkpoint, the present configuration
fork                   a new run goes on from the last durable step
abandon                the run ends, and is not tried again
====================== ================================================================================

A project's policy is one of these but ``fork``, or ``ask``: a person chooses.
"""

from __future__ import annotations

KINDS = ("workspace", "checkpoint", "session", "configuration")
CHOICES = ("restore", "accept", "fork", "abandon")
ASK = "ask"
POLICIES = (ASK, "restore", "accept", "abandon")
