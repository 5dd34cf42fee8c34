"""The tools as data."""

from __future__ import annotations

import pytest

from events.agents import ModelAgent
from events.tools import AGENT_TOOLS, GROUPED_TOOLS, check_arguments, find, not_allowed, offered_to


def test_a_model_is_offered_these_tools() -> None:
    """Internal ones are known and not offered; the runner's own have no effects."""
    assert [tool.name for tool in AGENT_TOOLS] == [
        "shell", "read_file", "write_file", "edit_file", "list_files", "search_files", "ask_human", "submit",
    ]  # fmt: skip
    changing = {tool.name for tool in AGENT_TOOLS if tool.effects == "workspace"}
    assert changing == {"shell", "write_file", "edit_file"}
    program, noop = find("program"), find("noop")
    assert program is not None
    assert noop is not None
    assert (program.effects, program.retry, noop.effects) == ("external", "never", "none")
    assert find("none") is None


def test_a_group_of_tools_is_offered_where_a_stage_opens_it() -> None:
    """And nowhere else; whoever asks all the same is told what opens it."""
    agent = ModelAgent(provider="scripted")
    compose = {tool.name: tool for tool in GROUPED_TOOLS if tool.group == "compose"}
    assert not {tool.name for tool in offered_to(agent)} & compose.keys()
    assert {tool.name for tool in offered_to(agent, ("compose",))} >= compose.keys()
    assert not_allowed("compose_up", ("compose",)) == not_allowed("shell", ()) == not_allowed("nothing", ()) == ""
    assert 'tools = ["compose"]' in not_allowed("compose_up", ("faults",))
    assert {name for name, tool in compose.items() if tool.effects == "none"} == {"compose_status", "tail_logs"}
    again = {name for name, tool in compose.items() if (tool.effects, tool.retry) == ("external", "idempotent")}
    assert again == {"compose_up", "compose_down", "restart_service"}


@pytest.mark.parametrize("tool", [*AGENT_TOOLS, *GROUPED_TOOLS], ids=lambda tool: tool.name)
def test_a_schema_stands_by_itself(tool: object) -> None:
    """No references, no nulls, nothing unknown allowed: what every provider understands."""
    parameters = tool.parameters  # type: ignore[attr-defined]
    assert parameters["type"] == "object"
    assert parameters["additionalProperties"] is False
    assert "$ref" not in str(parameters)
    assert "null" not in str(parameters)
    assert all("description" in value for value in parameters["properties"].values())


def test_defaults_are_filled_in() -> None:
    """Whoever executes a call finds every argument."""
    assert check_arguments("read_file", '{"path": "a"}') == {"path": "a", "offset": 1, "limit": 2000}
    assert check_arguments("list_files", "") == {"path": ".", "pattern": ""}


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("shell", '{"command": "x",}', 'byte 16), near \'{"command": "x",}\''),
        ("shell", '{"command": "x', "truncated at byte 14"),
        ("shell", "not json", "byte 4), near 'not json'"),
        ("shell", "[]", "Expected `object`, got `array`"),
        ("shell", "{}", "missing required field `command`"),
        ("shell", '{"command": 5}', "`$.command`"),
        ("shell", '{"command": ""}', "`$.command`"),
        ("shell", '{"command": "x", "cwd": "/"}', "unknown field `cwd`. It takes command, timeout_seconds"),
        ("read_file", '{"path": "a", "offset": 0}', "`$.offset`"),
        ("edit_file", '{"path": "a", "old": "x", "new": "y", "replace_all": "yes"}', "`$.replace_all`"),
        ("rm", "{}", "there is no tool 'rm'; there are shell, read_file"),
    ],
)
def test_arguments_that_do_not_fit_are_explained(tool: str, arguments: str, says: str) -> None:
    """The message names the argument, or where the JSON breaks."""
    message = check_arguments(tool, arguments)
    assert isinstance(message, str)
    assert says in message
