"""Style as a test: what a linter does not look at."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = ("events", "infra", "projections", "services")
LONGEST_FILE = 500
LONGEST_LINE = 120

REASON = re.compile(r"#.*\w{3,}.*\w{3,}")
# The environment-manager is a service, and its name a word of the field.
NAMES_THAT_SAY_NOTHING = re.compile(r"(?<!Environment)(?:Manager|Helper|Util|Utils|Utilities|Common|Misc)$")
MODULES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}
PRAGMA = re.compile(r"\s*# (?:noqa|type: ignore)\b.*")
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
REGISTRIES = re.compile(r"https?://|--index-url|--extra-index-url|--find-links| @ ")


@cache
def sources() -> tuple[Path, ...]:
    """Every Python file of the repository, whether it is committed yet or not."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file())


def product() -> list[Path]:
    return [path for path in sources() if path.relative_to(ROOT).parts[0] in PRODUCT]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def complain(found: Iterator[str]) -> None:
    problems = list(found)
    assert not problems, "\n" + "\n".join(problems)


def where(path: Path, line: int = 0) -> str:
    return f"{path.relative_to(ROOT)}:{line}" if line else str(path.relative_to(ROOT))


def test_no_file_is_too_long() -> None:
    """A file of more than 500 lines is two files."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources()}
    complain(f"{where(path)} has {count} lines" for path, count in lengths.items() if count > LONGEST_FILE)


def test_no_line_is_too_long() -> None:
    """120 columns, in strings and comments too; remarks for the checkers do not count."""
    complain(
        f"{where(path, number)} has {len(line)} columns"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(PRAGMA.sub("", line).rstrip()) > LONGEST_LINE
    )


def test_every_module_says_what_it_is_for() -> None:
    """A module of the product, and of the tests where it is not just a package, begins with a docstring."""
    complain(
        f"{where(path)} has no docstring"
        for path in sources()
        if not ast.get_docstring(tree(path)) and (path in product() or path.stat().st_size)
    )


def test_every_test_says_what_it_shows() -> None:
    """Each test has a docstring of a sentence."""
    complain(
        f"{where(path, node.lineno)} {node.name} has no docstring"
        for path in sources()
        if path.name.startswith("test_")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    )


def test_nothing_is_left_unfinished() -> None:
    """No note to oneself stays in the code."""
    complain(
        f"{where(path, number)} {line.strip()}"
        for path in sources()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    )


def test_only_the_command_line_prints() -> None:
    """A service speaks through its log."""
    complain(
        f"{where(path, node.lineno)} prints"
        for path in product()
        if "command_line" not in path.parts
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    )


def test_a_broad_except_has_a_reason() -> None:
    """Catching everything is right in the consumer loop, and where a comment beside it says why."""
    complain(
        f"{where(path, number)} {line.strip()}"
        for path in product()
        if path != ROOT / "infra" / "consumer.py"
        for number, line in _broad_excepts(path)
        if not REASON.search(line.replace("# noqa: BLE001", "#"))
    )


def _broad_excepts(path: Path) -> Iterator[tuple[int, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and not _raises_again(node):
            around = lines[max(0, node.lineno - 2) : node.lineno + 1]
            yield node.lineno, "  ".join(line.strip() for line in around)


def _is_broad(node: ast.ExceptHandler) -> bool:
    named = node.type
    return named is None or (isinstance(named, ast.Name) and named.id in ("Exception", "BaseException"))


def _raises_again(node: ast.ExceptHandler) -> bool:
    """Whether the handler ends by letting the exception go on: then it hides nothing."""
    last = node.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_names_say_something() -> None:
    """No Manager, Helper, utils or common: a name says what the thing does."""
    complain(
        f"{where(path, node.lineno)} class {node.name}"
        for path in product()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and NAMES_THAT_SAY_NOTHING.search(node.name)
    )
    complain(f"{where(path)}" for path in product() if path.stem in MODULES_THAT_SAY_NOTHING)


def test_only_a_main_names_adapters() -> None:
    """Handlers and policies know ports; what stands behind them is chosen in one place."""
    complain(
        f"{where(path, node.lineno)} imports {node.module}"
        for path in product()
        if path.name != "__main__.py" and "adapters" not in path.parts
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.module and ".adapters" in node.module
    )


def test_constraints_are_exact_and_without_addresses() -> None:
    """The file works with whatever package index the user has."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    complain(line for line in lines if REGISTRIES.search(line) or "==" not in line)


@pytest.mark.parametrize("extra", [None, "dev"])
def test_constraints_cover_what_is_needed(extra: str | None) -> None:
    """Every dependency that pyproject.toml names has its version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    pinned = {_normalized(line) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {_normalized(item) for item in wanted} <= pinned


def _normalized(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ;]", requirement, maxsplit=1)[0].lower().replace("_", "-").replace(".", "-")
