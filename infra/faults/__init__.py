"""Crashes on purpose: a stack whose processes are killed at chosen points of the log, and the comparison with one
that was left alone."""
