"""The pure rules of environments and pull requests."""
