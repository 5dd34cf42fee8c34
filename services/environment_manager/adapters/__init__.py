"""git and processes on this host."""
