"""The shared language: commands, events, states and folds of every entity, and the rules that all services obey.

Nothing here does input or output. Services import this package and never one another.
"""
