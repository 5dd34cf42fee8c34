"""Owns runs: drives the agent, built-in loop or program, under one lease per run."""
