"""``cairn replay --step``, ``--checkout``, ``fork``, ``export`` and ``import`` against a stub gateway."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
from pathlib import Path

import pytest

from services.command_line.failures import Failure
from services.command_line.unpacking import unpack
from tests.command_line.conftest import Run
from tests.command_line.rows import accepted
from tests.command_line.stub_gateway import Answer, StubGateway, decision, page, problem


def state(sequence: int = 5) -> Answer:
    past = {"entity": "run", "id": "r", "sequence": sequence, "time": "2026-05-01T12:00:00Z", "status": "running"}
    return Answer({**past, "decisions": 2, "later_decisions": 3, "state": {"id": "r", "last": "nothing"}})


@pytest.fixture
def stepping(gateway: StubGateway) -> StubGateway:
    """A run ``r`` of three decisions."""
    gateway.on("GET /replay/run/r", state())
    gateway.on(
        "GET /events",
        page(
            decision(5, "run", "r", {"type": "ModelResponded", "step": 1, "text": "I look first.\nThen I see."}),
            decision(7, "run", "r", {"type": "ModelResponded", "step": 2, "text": "I mend it."}),
            decision(9, "run", "r", {"type": "RunSucceeded", "summary": "done", "commit": "c"}),
        ),
    )
    gateway.on("GET /runs/r/diff", Answer(b"--- a\n+++ b\n", kind="text/plain"))
    return gateway


def archive(*members: tuple[str, bytes | str]) -> bytes:
    """A tar archive: bytes are a file, text is where a link leads."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return gzip.compress(data.getvalue())


class TestStep:
    def test_forward_back_and_to_a_sequence(self, run: Run, stepping: StubGateway) -> None:
        """Keys come line by line, also from a pipe; the end of the input is the end."""
        shown = run("replay", "r", "--step", input="n\np\ng 8\n\n").stdout
        heads = [line.split(" · ")[1] for line in shown.splitlines() if line.startswith("step ")]
        assert heads == ["sequence 5", "sequence 7", "sequence 5", "sequence 7", "sequence 9"]
        assert "│ Then I see." in shown

    def test_at_the_ends(self, run: Run, stepping: StubGateway) -> None:
        """Before the first and after the last step it says so, and stays."""
        result = run("replay", "r", "--step", input="p\ng 4\ng 9\nn\nwhat\nq\n")
        assert result.exit_code == 0
        for said in (
            "This is the first step.",
            "begins with 5: there is nothing before",
            "This is the last step.",
            "'what' is no command",
        ):
            assert said in result.stderr

    def test_diff_of_a_step(self, run: Run, stepping: StubGateway) -> None:
        """The diff is asked for at the sequence of the step."""
        shown = run("replay", "r", "--step", input="n\nd\nq\n").stdout
        assert "+++ b" in shown
        assert stepping.requests[-1].query == {"at": "7"}

    def test_begins_where_it_is_told_to(self, run: Run, stepping: StubGateway) -> None:
        """--at names the step to begin with."""
        stepping.on("GET /replay/run/r", state(7))
        assert "step 2 of 3 · sequence 7" in run("replay", "r", "--step", "--at", "8", input="").stdout


class TestCheckout:
    def test_writes_the_workspace(self, run: Run, stepping: StubGateway, tmp_path: Path) -> None:
        """Files and links are as they were, in a folder that is made."""
        stepping.on("GET /runs/r/workspace", Answer(archive(("a.txt", b"text"), ("link", "/etc/hostname"))))
        result = run("replay", "r", "--at", "7", "--checkout", str(tmp_path / "out"))
        assert result.exit_code == 0, result.output
        assert (tmp_path / "out" / "a.txt").read_text() == "text"
        assert (tmp_path / "out" / "link").readlink() == Path("/etc/hostname")

    def test_into_a_folder_that_holds_something(self, run: Run, gateway: StubGateway, tmp_path: Path) -> None:
        """It is refused before anybody is asked."""
        (tmp_path / "file").touch()
        result = run("replay", "r", "--checkout", str(tmp_path))
        assert (result.exit_code, gateway.requests) == (2, [])
        assert "is not empty" in result.stderr

    @pytest.mark.parametrize(
        "members", [[("../out.txt", b"x")], [("/tmp/../etc/x", b"x")], [("up", ".."), ("up/out.txt", b"x")]]
    )
    def test_nothing_is_written_outside(self, tmp_path: Path, members: list[tuple[str, bytes | str]]) -> None:
        """Neither by a path nor by way of a link."""
        target = tmp_path / "deep" / "target"
        with contextlib.suppress(Failure):
            unpack(archive(*members), target)
        found = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(target)]
        assert found == []

    def test_what_is_no_archive(self, tmp_path: Path) -> None:
        """An answer that is damaged is a failure with a message."""
        with pytest.raises(Failure, match="cannot be unpacked"):
            unpack(b"junk", tmp_path / "out")


def test_one_thing_at_a_time(run: Run) -> None:
    """--step and --diff together are a usage error."""
    assert run("replay", "r", "--step", "--diff").exit_code == 2


def test_workspace_of_a_task(run: Run, gateway: StubGateway, tmp_path: Path) -> None:
    """A task has several: the message says to name a run."""
    gateway.on("GET /replay/task/shop-1", state())
    result = run("replay", "shop-1", "--checkout", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert "name one of its runs" in result.stderr


class TestFork:
    def test_names_the_new_task(self, run: Run, gateway: StubGateway) -> None:
        """The step, the prompt and the agent go along."""
        gateway.on("POST /runs/r/fork", Answer(accepted("shop-4"), status=201))
        result = run("fork", "r", "--at", "7", "--prompt", "Use decimals.", "--agent", "other")
        assert "Submitted shop-4" in result.stdout
        assert gateway.requests[-1].body == {"at": 7, "prompt": "Use decimals.", "agent": "other"}

    def test_says_what_is_left_behind(self, run: Run, gateway: StubGateway) -> None:
        """What the gateway adds to its answer is a remark beside it."""
        said = "Its agent is a program, which takes over no conversation."
        gateway.on("POST /runs/r/fork", Answer(accepted("shop-4", detail=said), status=201))
        assert "takes over no conversation" in run("fork", "r", "--at", "7").stderr

    def test_where_nothing_can_go_on_from(self, run: Run, gateway: StubGateway) -> None:
        """What the gateway says is shown: a checkpoint that is gone is a failure."""
        gateway.on("POST /runs/r/fork", problem(409, "checkpoint-missing", "c0ffee is not on this host."))
        result = run("fork", "r", "--at", "7")
        assert result.exit_code == 1
        assert "c0ffee is not on this host" in result.stderr

    def test_of_an_import(self, run: Run) -> None:
        """An imported run can only be looked at."""
        assert run("fork", "imported/r", "--at", "7").exit_code == 2


class TestBundles:
    def test_import_that_is_looked_at(self, run: Run, gateway: StubGateway) -> None:
        """``imported/NAME`` is its run, ``imported/NAME/ID`` anything else in it."""
        gateway.on("GET /imports", page({"name": "theirs", "run": "r"}))
        gateway.on("GET /imports/theirs/replay/run/r", state())
        gateway.on("GET /imports/theirs/events", page(decision(5, "run", "r", {"type": "RunSucceeded"})))
        assert "nothing" in run("replay", "imported/theirs").stdout
        assert run("events", "--run", "imported/theirs").exit_code == 0
        assert run("replay", "imported/theirs/shop-1").exit_code == 4
        assert run("replay", "imported/nothing").exit_code == 4

    def test_import_does_not_go_on(self, run: Run, gateway: StubGateway) -> None:
        """Following one is a usage error."""
        gateway.on("GET /imports", page({"name": "theirs", "run": "r"}))
        assert run("events", "--run", "imported/theirs", "-f").exit_code == 2

    def test_file_that_is_not_there(self, run: Run, tmp_path: Path) -> None:
        """Nothing is sent for it."""
        assert run("import", str(tmp_path / "none.zip")).exit_code == 4

    def test_export_overwrites_nothing(self, run: Run, gateway: StubGateway, tmp_path: Path) -> None:
        """A file that is there stays as it is."""
        path = tmp_path / "mine.zip"
        path.write_text("mine")
        assert run("export", "r", "--output", str(path)).exit_code == 2
        assert (path.read_text(), gateway.requests) == ("mine", [])
