"""The agents of the settings file, read again when the file changes, so that an edit needs no restart."""

from __future__ import annotations

from collections.abc import Mapping

from events.agents import Agent
from events.errors import Invalid
from infra import settings
from infra.settings import SettingsInvalid


class ConfiguredAgents:
    def __init__(self) -> None:
        self._read_at_ns = -1
        self._agents: Mapping[str, Agent] = {}

    def known(self) -> Mapping[str, Agent]:
        path = settings.file_path()
        changed_at_ns = path.stat().st_mtime_ns if path.exists() else 0
        if changed_at_ns != self._read_at_ns:
            try:
                self._agents = settings.load().agents
            except SettingsInvalid as error:
                raise Invalid(str(error), slug="settings-invalid") from error
            self._read_at_ns = changed_at_ns
        return self._agents
