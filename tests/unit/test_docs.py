"""The documentation agrees with the code where that can be checked."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from docs.generate_events import PAGE, page
from events.agents import CommandTool, Limits, ModelAgent, ProgramAgent
from infra.settings import Settings, Webhook

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
ROW = re.compile(r"^\| `(\w+)` \| (?:`([^`]*)`|(required)|) ?\|", re.MULTILINE)

SECTIONS: dict[str, type[msgspec.Struct]] = {
    **{field.name: field.type for field in msgspec.structs.fields(Settings) if isinstance(field.type, type)},
    "webhooks.NAME": Webhook,
    "Limits": Limits,
    "Tools": CommandTool,
}


def test_page_of_events_is_what_the_types_say() -> None:
    """Run ``python -m docs.generate_events`` where it is not."""
    assert PAGE.read_text(encoding="utf-8") == page()


def table(text: str) -> dict[str, str]:
    return {name: default or required for name, default, required in ROW.findall(text)}


def defaults(kind: type[msgspec.Struct]) -> dict[str, str]:
    """How the page writes the defaults of a struct's plain fields."""
    found = {}
    for field in msgspec.structs.fields(kind):
        if field.default_factory is not msgspec.NODEFAULT:
            found[field.name] = msgspec.json.encode(field.default_factory()).decode()
        elif field.default is msgspec.NODEFAULT:
            found[field.name] = "required"
        elif isinstance(field.default, str):
            found[field.name] = field.default
        else:
            found[field.name] = msgspec.json.encode(field.default).decode()
    return found


def sections() -> dict[str, str]:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    parts = re.split(r"^##+ (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(
    ("section", "kind"),
    [(name, kind) for name, kind in SECTIONS.items() if issubclass(kind, msgspec.Struct)],
)
def test_configuration_names_every_setting_with_its_default(section: str, kind: type[msgspec.Struct]) -> None:
    """And no other."""
    assert table(sections()[section]) == defaults(kind)


def test_configuration_names_the_settings_without_a_section() -> None:
    """Those at the top of the file."""
    plain = {field.name for field in msgspec.structs.fields(Settings) if field.type is str}
    assert table(sections()["Top"]) == {name: value for name, value in defaults(Settings).items() if name in plain}


def test_configuration_names_every_field_of_an_agent() -> None:
    """Of both kinds."""
    _, model, program = sections()["agents.NAME"].split("| setting |")
    assert table(model) == {"kind": "required", **defaults(ModelAgent)}
    assert table(program) == {"kind": "required", **defaults(ProgramAgent)}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_links_lead_somewhere(path: Path) -> None:
    """To a page that is there, and to a heading that it has."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {item.lower().replace(" ", "-") for item in headings}, target


def test_decisions_are_numbered_and_have_their_parts() -> None:
    """Context, decision, consequences."""
    records = sorted((DOCS / "adr").glob("*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(path.name[:4])}. ")
        assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
