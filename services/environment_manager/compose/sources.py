"""The files of a system, before Compose reads them: Compose itself opens whatever they name, and follows every link.

So each file that a Compose file has read is looked for in the raw YAML, resolved with all its links, and must lie in
the working copy: ``include``, ``extends``, ``env_file``, ``label_file``, and the files of configs and secrets. Such a
path may hold no variable, as what it would come to is not known here.

Limits: a link that is put there between this look and Compose's is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from services.environment_manager.compose.refusal import Refusal
from services.environment_manager.tools import ToolRefused
from services.environment_manager.tools.places import locate

DEFAULT_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
FILE_LIMIT_BYTES = 1_048_576
FILES_LIMIT = 50
REMOTE = ("git@", "github.com", "oci:", "ssh:")


class _Loader(yaml.SafeLoader):
    """Takes a tag that it does not know (Compose has some of its own) for no tag."""


def _untagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_Loader.add_multi_constructor("!", _untagged)


def find(workspace: Path, compose_file: str) -> str:
    """The Compose file that is meant, relative to the workspace. Raises ``ToolRefused`` where there is none."""
    for name in [compose_file] if compose_file else DEFAULT_NAMES:
        parts = locate(workspace, name)
        if parts and workspace.joinpath(*parts).is_file():
            return str(Path(*parts))
    there = sorted(path.name for pattern in ("*.yaml", "*.yml") for path in workspace.glob(pattern))
    near = f"In the root of the working copy there are {', '.join(there[:10])}." if there else ""
    wanted = compose_file or ", ".join(DEFAULT_NAMES)
    raise ToolRefused("compose-file-missing", f"There is no Compose file {wanted}. {near}".strip())


def refusals(workspace: Path, compose_file: str) -> list[Refusal]:
    """What the files must not name. Raises ``ToolRefused`` where one of them cannot be read."""
    return _Sources(Path(os.path.realpath(workspace))).look(compose_file)


class _Sources:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: list[Refusal] = []
        self._seen: set[Path] = set()

    def look(self, compose_file: str) -> list[Refusal]:
        path = self._root / compose_file
        # Compose reads the variables of a project from here, whether a file says so or not.
        self._confined(".env", ".env", "", (path.parent,))
        self._look(path, (path.parent,))
        return self._found

    def _look(self, path: Path, bases: tuple[Path, ...]) -> None:
        """Look into one file. What is relative in it is so to ``bases``; where that is several, to any of them."""
        if path in self._seen:
            return
        self._seen.add(path)
        if len(self._seen) > FILES_LIMIT:
            raise ToolRefused("compose-file-invalid", f"More than {FILES_LIMIT} Compose files lead to one another.")
        for document in self._documents(path):
            for included in _listed(document.get("include")):
                self._include(included, bases)
            for name, service in _items(document.get("services")):
                self._service(name, service, bases)
            for kind in ("configs", "secrets"):
                for name, item in _items(document.get(kind)):
                    self._confined(item.get("file"), f"{kind}.{name}.file", "", bases)

    def _service(self, name: str, service: dict[str, Any], bases: tuple[Path, ...]) -> None:
        for key in ("env_file", "label_file"):
            for entry in _listed(service.get(key)):
                self._confined(entry.get("path") if isinstance(entry, dict) else entry, key, name, bases)
        extended = service.get("extends")
        if isinstance(extended, dict) and extended.get("file") is not None:
            for path in self._confined(extended["file"], "extends.file", name, bases):
                self._look(path, (path.parent,))

    def _include(self, included: Any, bases: tuple[Path, ...]) -> None:
        entry = included if isinstance(included, dict) else {"path": included}
        given = entry.get("project_directory")
        directories = tuple(self._confined(given, "include.project_directory", "", bases)) if given else ()
        for text in _listed(entry.get("path")):
            for path in self._confined(text, "include", "", bases):
                beside = directories or (path.parent,)
                self._confined(".env", "include: .env", "", beside)
                self._look(path, beside)
                for name in _listed(entry.get("env_file")):
                    self._confined(name, "include.env_file", "", (*bases, *beside))

    def _confined(self, text: Any, key: str, service: str, bases: tuple[Path, ...]) -> list[Path]:
        """The real paths that ``text`` may come to, all of them in the working copy; else none, and a refusal."""
        if text is None:
            return []
        if not isinstance(text, str):
            self._found.append(Refusal(key, service, f"{text!r} is no path."))
            return []
        reason = ""
        real = [Path(os.path.realpath(base / text)) for base in bases] if "\0" not in text else []
        if "$" in text:
            reason = f"{text} holds a variable: write the path itself."
        elif "://" in text or text.startswith(REMOTE):
            reason = f"{text} is not in the working copy but somewhere in the network: copy it into the repository."
        elif text.startswith("~") or not real or not all(path.is_relative_to(self._root) for path in real):
            reason = f"{text} leads out of the working copy."
        elif any(part.lower() == ".git" for path in real for part in path.relative_to(self._root).parts):
            reason = f"{text} belongs to git."
        elif any(path.exists() and not path.is_file() and not path.is_dir() for path in real):
            reason = f"{text} is a device, pipe or socket, not a file."
        if reason:
            self._found.append(Refusal(key, service, reason))
            return []
        return list(dict.fromkeys(real))

    def _documents(self, path: Path) -> Iterator[dict[str, Any]]:
        shown = path.relative_to(self._root) if path.is_relative_to(self._root) else path
        if not path.is_file():
            return  # Compose says so, or it is one of two places where it may lie.
        if path.stat().st_size > FILE_LIMIT_BYTES:
            raise ToolRefused("compose-file-invalid", f"{shown} is larger than {FILE_LIMIT_BYTES} bytes.")
        try:
            # The class is a safe loader; CSafeLoader's is not extensible in this way.
            for document in yaml.load_all(path.read_bytes(), _Loader):
                if isinstance(document, dict):
                    yield document
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise ToolRefused("compose-file-invalid", f"{shown} is no valid YAML: {error}") from error


def _listed(value: Any) -> Iterable[Any]:
    return () if value is None else value if isinstance(value, list) else [value]


def _items(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, dict):
                yield str(name), item
