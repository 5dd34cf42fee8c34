"""The example settings, ``cairn doctor`` and ``cairn agents``: what a new user meets first."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from infra.settings import SettingsInvalid, load
from services.command_line.doctor import MISSING, OK, WARNING, check_agent, check_disk, run_checks
from services.command_line.example_settings import EXAMPLE
from tests.command_line.conftest import run_alone

SETTING = re.compile(r"^# (?=\[|[a-z_]+ = )", re.MULTILINE)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, and an environment without settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("CAIRN_SETTINGS", "CAIRN_URL", "CAIRN_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_the_example_is_valid_and_says_the_defaults(here: Path) -> None:
    """As it is written it changes nothing; uncommented, every name in it is known and the values are the defaults."""
    file = here / "cairn.toml"
    file.write_text(EXAMPLE)
    assert load(file, {}) == load_defaults(here)
    file.write_text(SETTING.sub("", EXAMPLE))
    settings = load(file, {})
    assert sorted(settings.agents) == ["claude", "claude-code", "local", "rehearsal"]
    defaults = load_defaults(here)
    for section in ("gateway", "scheduling", "worker", "telemetry"):
        assert getattr(settings, section) == getattr(defaults, section)


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ("tools.shell = { description = 'd', command = ['true'] }", "every agent has a tool of that name"),
        ("tools.x = { description = 'd', command = [] }", "its command is empty"),
        ("tools.x = { description = 'd', command = ['true'], retry = 'probe' }", "belong together"),
        ("tools.x = { description = 'd', command = ['true'], probe = ['true'] }", "belong together"),
        ("tools.x = { description = 'd', command = ['true'], effects = 'none', retry = 'idempotent' }", "retry is for"),
        ("tools.x = { description = 'd', command = ['true'], effects = 'some' }", "Invalid enum value 'some'"),
        ("tools.'x y' = { description = 'd', command = ['true'] }", "cannot name a tool"),
    ],
)
def test_tools_that_cannot_be(here: Path, tool: str, said: str) -> None:
    """A tool that could not be called, or not be resolved after a crash, is refused when the settings are read."""
    file = here / "cairn.toml"
    file.write_text(f"[agents.a]\nkind = 'model'\nprovider = 'scripted'\n{tool}\n")
    with pytest.raises(SettingsInvalid, match=said):
        load(file, {})


def load_defaults(here: Path) -> object:
    empty = here / "empty.toml"
    empty.write_text("")
    return load(empty, {})


class TestDoctor:
    def test_all_is_well_here(self, here: Path) -> None:
        """On a machine on which the tests run, nothing is missing."""
        result = run_alone("doctor", "--json")
        assert result.exit_code == 0, result.output
        verdicts = {check["name"]: check["verdict"] for check in json.loads(result.stdout)}
        assert {verdicts[name] for name in ("python", "git", "nats-server", "postgres", "settings")} == {OK}

    def test_invalid_settings(self, here: Path) -> None:
        """A typo is missing's kin: Cairn would not start, so the exit code is 1."""
        (here / "cairn.toml").write_text("[agents.a]\nkind = 'program'\ncomand = ['true']\n")
        result = run_alone("doctor")
        assert result.exit_code == 1
        assert "comand" in result.stdout

    def test_a_port_in_use(self, here: Path) -> None:
        """The port that `cairn up` would take is looked at."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            (here / "cairn.toml").write_text(f"[gateway]\nport = {taken.getsockname()[1]}\n")
            found = {check.name: check for check in run_checks(here)}
        assert found["port"].verdict == WARNING
        assert "--port" in found["port"].detail

    def test_keys_are_looked_up_and_never_shown(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A key that is there counts as there; nothing of it is printed."""
        monkeypatch.setenv("MY_KEY", "very-secret")
        (here / "cairn.toml").write_text(
            "[agents.there]\nkind = 'model'\nprovider = 'openai'\nkey = 'env:MY_KEY'\nbase_url = 'http://127.0.0.1:1'\n"
            "[agents.absent]\nkind = 'model'\nprovider = 'anthropic'\nkey = 'env:NO_SUCH_KEY'\n"
        )
        result = run_alone("doctor")
        assert "very-secret" not in result.output
        agents = {name: next(check_agent(name, agent)) for name, agent in load(None, {}).agents.items()}
        assert agents["there"].verdict == OK
        assert agents["absent"].verdict == WARNING
        assert "NO_SUCH_KEY" in agents["absent"].detail

    @pytest.mark.parametrize(
        ("agent", "said"),
        [
            ("kind = 'program'\ncommand = ['no-such-program-here']", "is not found on the PATH"),
            ("kind = 'model'\nprovider = 'opnai'", "is none of anthropic, openai, scripted"),
            ("kind = 'model'\nprovider = 'openai'\nbase_url = 'localhost:11434'", "is no http(s) address"),
            ("kind = 'model'\nprovider = 'anthropic'\nkey = 'sk-secret'", "is not of the form env:NAME or file:PATH"),
            ("kind = 'model'\nprovider = 'scripted'\ntranscript = 'nothing.json'", "does not exist"),
        ],
    )
    def test_agents_that_cannot_begin(self, here: Path, agent: str, said: str) -> None:
        """Each reason why an agent could not begin is told in words."""
        (here / "cairn.toml").write_text(f"[agents.a]\n{agent}\n")
        check = next(check_agent("a", load(None, {}).agents["a"]))
        assert check.verdict == WARNING
        assert said in check.detail
        assert "sk-secret" not in check.detail

    def test_disk_of_a_home_that_does_not_exist_yet(self, here: Path) -> None:
        """The disk that the home would lie on is looked at."""
        assert check_disk(here / "a" / "b" / ".cairn").verdict != MISSING


def test_agents_list(here: Path) -> None:
    """The agents of the settings file, for people and programs."""
    (here / "cairn.toml").write_text("[agents.fixer]\nkind = 'program'\ncommand = ['sh', '-c', 'true']\n")
    assert "fixer" in run_alone("agents", "list").stdout
    (found,) = json.loads(run_alone("agents", "list", "--json").stdout)
    assert found["name"] == "fixer"
    assert found["kind"] == "program"


def test_version() -> None:
    """The version is that of the package."""
    assert re.fullmatch(r"cairn \d+\.\d+\.\d+\n", run_alone("version").stdout)
