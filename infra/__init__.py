"""Plumbing: JetStream, PostgreSQL, processes, clocks, telemetry, settings, and the in-memory twins of what has one."""
