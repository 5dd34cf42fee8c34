"""The pure rules of runs."""
