"""YAML, of which JSON is a part, from whom nobody trusts: plain values only, and no aliases, by which a few lines can
stand for more than any memory holds."""

from __future__ import annotations

from typing import Any

import yaml


class NotReadable(ValueError):
    """The text is no such YAML; the message says where."""


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.nodes.Node | None, index: int) -> yaml.nodes.Node | None:
        if self.check_event(yaml.AliasEvent):
            message = "aliases are not read here"
            raise yaml.MarkedYAMLError(problem=message, problem_mark=self.get_mark())
        return super().compose_node(parent, index)


def read(text: str) -> Any:
    """The value in ``text``. Raises ``NotReadable``."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotReadable(str(error).strip()) from error
