"""``cairn crash-test`` over an agent of a user's own: tools that are what they declare, and tools that are not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.crash.workload import call, turn
from tests.integration import git_examples
from tests.system.stack import CAIRN, clean_environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(480)]

# name: what it declares, what it does, and what is to be found
TOOLS: dict[str, tuple[dict[str, str], str, str]] = {
    "honest-none": ({"effects": "none"}, "wc -l < README.md", ""),
    "lying-none": ({"effects": "none"}, "echo changed >> changed.txt", "the workspace was another"),
    "honest-workspace": ({"effects": "workspace"}, "echo more >> more.txt", ""),
    "lying-workspace": (
        {"effects": "workspace"},
        'echo more >> "$HOME/outside"; cp "$HOME/outside" copied.txt',
        "left another",
    ),
    "honest-never": ({}, "echo sent", ""),
    "lying-idempotent": ({"retry": "idempotent"}, 'mkdir "$HOME/$CAIRN_CALL_ID"', "ended otherwise"),
    "honest-probe": ({"retry": "probe", "probe": 'test -e "$HOME/probed"'}, 'touch "$HOME/probed"', ""),
    "lying-probe": ({"retry": "probe", "probe": "false"}, "true", "did not tell"),
}


def crash_test(directory: Path, *options: str) -> tuple[int, dict[str, Any]]:
    command = [*CAIRN, "crash-test", "repository", "--agent", "mine", "--json", *options]
    done = subprocess.run(
        command, cwd=directory, env=clean_environment(), capture_output=True, text=True, timeout=450, check=False
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_tools_that_are_not_what_they_declare_are_named(tmp_path: Path) -> None:
    """Each that lies is found, none that is honest; every crash ends as the undisturbed task, but for the lies."""
    git_examples.repository(tmp_path / "repository", {"README.md": "# Mine\n"})
    transcript = [turn("", call(name)) for name in TOOLS]
    (tmp_path / "transcript.json").write_text(
        json.dumps({"turns": [*transcript, turn("", call("submit", summary="done"))]})
    )
    settings = '[agents.mine]\nkind = "model"\nprovider = "scripted"\ntranscript = "transcript.json"\n'
    for name, (declared, command, _) in TOOLS.items():
        settings += f"[agents.mine.tools.{name}]\ndescription = 'a tool'\ncommand = {_argv(command)}\n"
        settings += "".join(
            f"{key} = {_argv(value) if key == 'probe' else json.dumps(value)}\n" for key, value in declared.items()
        )
    (tmp_path / "cairn.toml").write_text(settings)
    code, report = crash_test(tmp_path, "--points", "4", "--seed", "3")
    found = {tool["tool"]: "; ".join(tool["problems"]) for tool in report["tools"]}
    assert found.keys() == TOOLS.keys()
    for name, (_, _, expected) in TOOLS.items():
        assert expected in found[name]
        assert bool(found[name]) == bool(expected), found[name]
    assert (code, report["holds"], len(report["points"])) == (1, False, 4)
    assert not (tmp_path / ".cairn").exists()
    refs = subprocess.run(
        ["git", "branch", "--list"], cwd=tmp_path / "repository", capture_output=True, text=True, check=True
    )
    assert refs.stdout.split() == ["*", "main"]


def _argv(command: str) -> str:
    return json.dumps(["/bin/sh", "-c", command])
