"""What the scheduler needs from outside, in its own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from events.agents import Agent


class Agents(Protocol):
    def known(self) -> Mapping[str, Agent]:
        """The agents that are configured now, by name. Raises ``Invalid`` where the description cannot be used."""
