"""The embedded stack: real servers, real processes."""
