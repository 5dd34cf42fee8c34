"""The `cairn` command from outside."""
