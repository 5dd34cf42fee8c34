"""Composed systems: which Compose files may run here, in what form they do, and when a system is up.

``sources`` looks at the files before Compose reads them, ``guard`` at the model that Compose makes of them, ``health``
at the containers. Nothing here talks to an engine.
"""
