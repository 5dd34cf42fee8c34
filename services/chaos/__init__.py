"""The chaos service: faults and experiments, and their undoing."""
