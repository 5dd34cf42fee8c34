"""The file tools on real files, links and git working copies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from events.tools import Arguments, decode_arguments, find
from services.environment_manager.tools import ToolRefused, execute_file_tool, process_environment


async def call(workspace: Path, tool: str, **arguments: object) -> str:
    decoded = decode_arguments(tool, json.dumps(arguments))
    assert isinstance(decoded, Arguments), decoded
    return await execute_file_tool(workspace, decoded)


async def refused(workspace: Path, tool: str, **arguments: object) -> ToolRefused:
    with pytest.raises(ToolRefused) as error:
        await call(workspace, tool, **arguments)
    assert str(error.value).endswith(".")
    return error.value


def git(workspace: Path, *command: str) -> None:
    subprocess.run(["git", *command], cwd=workspace, check=True, capture_output=True)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A git working copy with tracked, new, ignored and removed files; a secret lies outside of it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.txt").write_text("needle outside\n")
    workspace = tmp_path / "workspace"
    (workspace / "src/deep").mkdir(parents=True)
    (workspace / "src/main.py").write_text("import os\n\n\ndef main():\n    return 'needle'\n")
    (workspace / "src/deep/other.py").write_text("# needle 42\n")
    (workspace / "README.md").write_text("# Read\r\nme\r\n")
    (workspace / "removed.txt").write_text("x\n")
    (workspace / ".gitignore").write_text("build/\n")
    git(workspace, "init", "-q")
    git(workspace, "add", "-A")
    (workspace / "removed.txt").unlink()
    (workspace / "new.txt").write_text("needle new\n")
    (workspace / "build").mkdir()
    (workspace / "build/output.txt").write_text("needle built\n")
    return workspace


# ---- confinement


@pytest.mark.parametrize("tool", ["read_file", "write_file", "edit_file", "list_files", "search_files"])
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../outside/secret.txt",
        "src/../../outside/secret.txt",
        "link/secret.txt",
        "file-link",
        "absolute-link",
        "dangling",
        ".git/config",
        "src/../.git/config",
        "git-link/config",
        ".GIT/config",
        "\0",
    ],
)
async def test_nothing_outside_the_workspace_is_reached(workspace: Path, tool: str, path: str) -> None:
    """Absolute, by '..', by links of any kind, git's own files: refused by every tool, and nothing is changed."""
    (workspace / "link").symlink_to("../outside")
    (workspace / "file-link").symlink_to("../outside/secret.txt")
    (workspace / "absolute-link").symlink_to(workspace.parent / "outside/secret.txt")
    (workspace / "dangling").symlink_to("../outside/new.txt")
    (workspace / "git-link").symlink_to(".git")
    more = {
        "write_file": {"content": "needle"},
        "edit_file": {"old": "needle", "new": "x"},
        "search_files": {"pattern": "needle"},
    }
    error = await refused(workspace, tool, path=path, **more.get(tool, {}))
    assert error.cause == "path-outside-workspace"
    assert (workspace.parent / "outside/secret.txt").read_text() == "needle outside\n"
    assert not (workspace.parent / "outside/new.txt").exists()


async def test_paths_and_links_inside_the_workspace_work(workspace: Path) -> None:
    """An absolute path into the workspace, '..' and links that stay inside are all fine; a link stays a link."""
    (workspace / "link").symlink_to("src")
    (workspace / "link.py").symlink_to("src/deep/other.py")
    assert await call(workspace, "read_file", path=str(workspace / "new.txt")) == "needle new\n"
    assert await call(workspace, "read_file", path="link/../new.txt") == "needle new\n"
    assert await call(workspace, "read_file", path="link/deep/other.py") == "# needle 42\n"
    await call(workspace, "edit_file", path="link.py", old="42", new="43")
    assert (workspace / "link.py").is_symlink()
    assert (workspace / "src/deep/other.py").read_text() == "# needle 43\n"


async def test_what_is_no_file_is_refused(workspace: Path) -> None:
    """A pipe would be waited for without end; a directory has a tool of its own; what is missing is named."""
    os.mkfifo(workspace / "pipe")
    (workspace / "loop").symlink_to("loop")
    assert (await refused(workspace, "read_file", path="pipe")).cause == "not-a-file"
    assert (await refused(workspace, "write_file", path="pipe", content="x")).cause == "not-a-file"
    assert "list_files" in str(await refused(workspace, "read_file", path="src"))
    assert "list_files" in str(await refused(workspace, "read_file", path="."))
    assert (await refused(workspace, "write_file", path="src", content="x")).cause == "not-a-file"
    assert "none.txt does not exist" in str(await refused(workspace, "read_file", path="none.txt"))
    assert (await refused(workspace, "read_file", path="new.txt/x")).cause == "file-not-found"
    assert (await refused(workspace, "write_file", path="new.txt/x", content="")).cause == "file-not-found"
    assert (await refused(workspace, "read_file", path="x" * 300)).cause == "file-unusable"
    await refused(workspace, "read_file", path="loop")


# ---- reading


async def test_a_large_file_is_read_in_pages(workspace: Path) -> None:
    """Each page says how to go on, and together they are the file."""
    lines = [f"line {number}\n" for number in range(1, 4501)]
    (workspace / "large.txt").write_text("".join(lines))
    pages, offset = "", 1
    for _ in range(3):
        page = await call(workspace, "read_file", path="large.txt", offset=offset)
        text, _, note = page.partition("[lines ")
        pages += text
        offset = int(note.rpartition(" ")[2].rstrip("]")) if note else 0
    assert offset == 0
    assert pages == "".join(lines)
    some = await call(workspace, "read_file", path="large.txt", offset=10, limit=2)
    assert some == "line 10\nline 11\n[lines 10 to 11; the file goes on: read it with offset 12]"
    assert "only 4500 lines" in str(await refused(workspace, "read_file", path="large.txt", offset=4501))


async def test_a_very_long_line_is_cut(workspace: Path) -> None:
    """One line of 10 MB neither fills the answer nor hides the next one."""
    (workspace / "long.txt").write_text("x" * 10_000_000 + "\nnext\n")
    text = await call(workspace, "read_file", path="long.txt")
    assert len(text) < 5000
    assert "[... 9996000 bytes of this line left out]\nnext\n" in text


async def test_binary_empty_and_foreign_files(workspace: Path) -> None:
    """Binary is said to be binary; an empty file is no mistake; another encoding is shown as well as can be."""
    (workspace / "image").write_bytes(b"\x89PNG\0\0")
    (workspace / "empty").write_bytes(b"")
    (workspace / "latin").write_bytes(b"caf\xe9\n")
    assert (await refused(workspace, "read_file", path="image")).cause == "binary-file"
    assert await call(workspace, "read_file", path="empty") == "[the file is empty]"
    assert await call(workspace, "read_file", path="latin") == "caf\ufffd\n"


# ---- writing and editing


async def test_a_file_is_written_with_its_directories(workspace: Path) -> None:
    """A file that was there keeps its mode; nothing is left beside it."""
    assert await call(workspace, "write_file", path="a/b/c.txt", content="é\n") == "Created a/b/c.txt, 3 bytes."
    (workspace / "a/b/c.txt").chmod(0o750)
    assert await call(workspace, "write_file", path="a/b/c.txt", content="") == "Wrote a/b/c.txt, 0 bytes."
    assert (workspace / "a/b/c.txt").stat().st_mode & 0o777 == 0o750
    assert [path.name for path in (workspace / "a/b").iterdir()] == ["c.txt"]


async def test_an_edit_changes_exactly_what_was_meant(workspace: Path) -> None:
    """One place, or all of them where that was asked for; bytes that are no text stay what they are."""
    (workspace / "latin").write_bytes(b"caf\xe9 one\nsecond one\n")
    assert await call(workspace, "edit_file", path="latin", old="second one", new="2") == (
        "Replaced the text at line 2 of latin."
    )
    assert (workspace / "latin").read_bytes() == b"caf\xe9 one\n2\n"
    (workspace / "many").write_text("a b a b a\n")
    text = await call(workspace, "edit_file", path="many", old="a", new="", replace_all=True)
    assert text == "Replaced 3 occurrences in many."
    assert (workspace / "many").read_text() == " b  b \n"


async def test_an_edit_that_does_not_fit_says_why(workspace: Path) -> None:
    """Not found, found twice, other whitespace, other line ends, no change: each has its own answer."""
    path = "src/main.py"
    assert (await refused(workspace, "edit_file", path=path, old="nowhere", new="x")).cause == "text-not-found"
    assert "whitespace" in str(await refused(workspace, "edit_file", path=path, old="main():\n  return", new="x"))
    assert "\\r\\n" in str(await refused(workspace, "edit_file", path="README.md", old="Read\nme", new="x"))
    twice = await refused(workspace, "edit_file", path=path, old="n", new="x")
    assert twice.cause == "text-not-unique"
    assert "3 times" in str(twice)
    assert (await refused(workspace, "edit_file", path=path, old="os", new="os")).cause == "nothing-to-change"
    assert (workspace / path).read_text().startswith("import os\n")


# ---- listing and searching


async def test_files_are_listed_as_git_sees_them(workspace: Path) -> None:
    """Tracked and new ones; not those ignored, removed, or git's own."""
    text = await call(workspace, "list_files")
    assert text.splitlines() == [".gitignore", "README.md", "new.txt", "src/deep/other.py", "src/main.py"]
    assert (await call(workspace, "list_files", path="src")).splitlines() == ["src/deep/other.py", "src/main.py"]
    for pattern in ("*.py", "**/*.py", "src/**/*.py", "src/*"):
        text = await call(workspace, "list_files", pattern=pattern)
        assert text.splitlines() == ["src/deep/other.py", "src/main.py"], pattern
    assert (await call(workspace, "list_files", path="src", pattern="main.py")).splitlines() == ["src/main.py"]
    assert await call(workspace, "list_files", pattern="*.rs") == "[no files]"
    assert (await refused(workspace, "list_files", path="none")).cause == "file-not-found"


async def test_a_long_list_is_cut(workspace: Path) -> None:
    """It says how many are missing."""
    (workspace / "many").mkdir()
    for number in range(1200):
        (workspace / f"many/{number}").touch()
    lines = (await call(workspace, "list_files", path="many")).splitlines()
    assert len(lines) == 1001
    assert lines[-1].startswith("[200 more files")


async def test_names_with_special_characters_are_taken_literally(workspace: Path) -> None:
    """A directory may be called like a pattern."""
    (workspace / "[a]*").mkdir()
    (workspace / "[a]*/é ü.txt").write_text("needle special\n")
    assert (await call(workspace, "list_files", path="[a]*")).splitlines() == ["[a]*/é ü.txt"]
    assert (await call(workspace, "search_files", pattern="special", path="[a]*", glob="*.txt")).splitlines() == [
        "[a]*/é ü.txt:1:needle special"
    ]


async def test_lines_are_found(workspace: Path) -> None:
    """By a regular expression as people write it; in tracked and new files, not in ignored ones."""
    assert (await call(workspace, "search_files", pattern="needle")).splitlines() == [
        "new.txt:1:needle new",
        "src/deep/other.py:1:# needle 42",
        "src/main.py:5:    return 'needle'",
    ]
    assert await call(workspace, "search_files", pattern=r"needle \d+$") == "src/deep/other.py:1:# needle 42\n"
    assert await call(workspace, "search_files", pattern="needle", glob="*.txt") == "new.txt:1:needle new\n"
    assert await call(workspace, "search_files", pattern="needle", path="src/main.py") == (
        "src/main.py:5:    return 'needle'\n"
    )
    assert await call(workspace, "search_files", pattern="--no-such-option") == "[no matches]"


async def test_a_search_that_finds_too_much_is_cut(workspace: Path) -> None:
    """After 200 matches, and within long lines."""
    (workspace / "many.txt").write_text("match\n" * 500 + "match" + "x" * 10_000 + "\n")
    lines = (await call(workspace, "search_files", pattern="match")).splitlines()
    assert len(lines) == 201
    assert lines[-1].startswith("[more than 200 matches")
    (line,) = (await call(workspace, "search_files", pattern="matchx")).splitlines()
    assert line.endswith("[... line cut]")
    assert len(line) < 500


async def test_an_invalid_or_catastrophic_pattern_does_no_harm(workspace: Path) -> None:
    """The first is explained; the second ends in time."""
    error = await refused(workspace, "search_files", pattern="foo(")
    assert error.cause == "invalid-pattern"
    assert "parenthes" in str(error)
    (workspace / "evil.txt").write_text("a" * 5000 + "!\n")
    begin = time.monotonic()
    with pytest.raises(ToolRefused):
        await call(workspace, "search_files", pattern=r"^(a+)+$", path="evil.txt")
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("pattern", ["../outside/*", "/etc/*", "src/../../outside/*", ":(top)*", ":/"])
@pytest.mark.parametrize("with_git", [True, False])
async def test_a_pattern_does_not_lead_outside(workspace: Path, pattern: str, with_git: bool) -> None:
    """What is refused as a path is refused as a pattern, with and without git."""
    if not with_git:
        shutil.rmtree(workspace / ".git")
    assert (await refused(workspace, "list_files", pattern=pattern)).cause == "path-outside-workspace"
    error = await refused(workspace, "search_files", pattern="needle", glob=pattern)
    assert error.cause == "path-outside-workspace"


async def test_without_git_it_works_too(workspace: Path) -> None:
    """A workspace whose .git was removed can still be listed and searched."""
    shutil.rmtree(workspace / ".git")
    assert "src/main.py" in (await call(workspace, "list_files", pattern="*.py")).splitlines()
    assert "src/deep/other.py" in (await call(workspace, "list_files", path="src")).splitlines()
    (workspace / "link").symlink_to("../outside")
    lines = (await call(workspace, "search_files", pattern="needle")).splitlines()
    assert "new.txt:1:needle new" in lines
    assert not any("outside" in line for line in lines)


async def test_a_repository_cannot_make_the_tools_run_programs(workspace: Path) -> None:
    """Its settings are not ours: a file system monitor is not started."""
    git(workspace, "config", "core.fsmonitor", "touch ran; false")
    await call(workspace, "list_files")
    await call(workspace, "search_files", pattern="needle")
    assert not (workspace / "ran").exists()


# ---- variables


def test_a_process_gets_nothing_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the search path; secrets come by name and win."""
    monkeypatch.setenv("GITHUB_TOKEN", "x")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/x")
    monkeypatch.setenv("CAIRN_NATS__URL", "nats://u:p@h")
    variables = process_environment(tmp_path, {"API_KEY": "k"}, {"CAIRN_PROMPT_FILE": "/p"})
    assert set(variables) & set(os.environ) <= {"PATH", "HOME", "LANG", "TERM", "GIT_EDITOR", "GIT_TERMINAL_PROMPT"}
    assert (variables["API_KEY"], variables["CAIRN_PROMPT_FILE"]) == ("k", "/p")
    assert variables["HOME"] == str(tmp_path / "home")
    assert (tmp_path / "home").is_dir()


async def test_a_tool_that_is_no_file_tool_is_refused(workspace: Path) -> None:
    """The runner's own tools do not come here."""
    assert find("submit") is not None
    assert (await refused(workspace, "submit", summary="done")).cause == "unknown-tool"
