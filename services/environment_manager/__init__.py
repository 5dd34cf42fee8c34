"""Owns environments and pull requests: workspaces, processes, tool execution, checkpoints, pushing."""
