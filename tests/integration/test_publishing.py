"""Publishing and merging over real remotes: bare, with a working tree, over HTTP with and without credentials."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from events.errors import Permanent, Transient
from services.environment_manager.adapters.workspaces import GitWorkspaces
from services.environment_manager.ports import Published
from tests.integration.git_examples import bare, commit, files_in, git, repository, write

ENVIRONMENT = "shop-1-development"
BRANCH = "cairn/shop-1"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return repository(tmp_path / "source")


@pytest.fixture
def remote(tmp_path: Path, source: Path) -> Path:
    return bare(tmp_path / "remote.git", source)


@pytest.fixture
def workspaces(tmp_path: Path) -> GitWorkspaces:
    return GitWorkspaces(tmp_path / "home")


async def changed(workspaces: GitWorkspaces, url: Path, files: dict[str, str], id: str = ENVIRONMENT) -> str:
    """A workspace of ``url`` with some files written; its checkpoint."""
    made = await workspaces.prepare(id, str(url), base_branch="", bases=())
    write(made.workspace, files)
    return (await workspaces.checkpoint(id, "work")).commit


async def published(workspaces: GitWorkspaces, url: Path, files: dict[str, str], branch: str = BRANCH) -> Published:
    checkpoint = await changed(workspaces, url, files, branch.replace("/", "-"))
    return await workspaces.publish(str(url), checkpoint, branch=branch, message="Do the work")


# ---- publish


async def test_publish_squashes_onto_the_base(workspaces: GitWorkspaces, remote: Path) -> None:
    """However many steps there were, the remote gets one commit on the base, with the diff and its counts."""
    await changed(workspaces, remote, {"app.py": "print('bye')\n"})
    checkpoint = await changed(workspaces, remote, {"new.txt": "a\nb\n"})

    done = await workspaces.publish(str(remote), checkpoint, branch=BRANCH, message="Say goodbye\n\nBecause.")

    assert git(remote, "rev-parse", BRANCH) == done.commit
    assert git(remote, "rev-parse", f"{BRANCH}^") == git(remote, "rev-parse", "main") == done.base_commit
    assert (
        git(remote, "log", "-1", "--format=%an <%ae> %B", BRANCH) == "Cairn <cairn@localhost> Say goodbye\n\nBecause."
    )
    assert (done.files_changed, done.lines_added, done.lines_removed) == (2, 3, 1)
    assert done.diff.startswith("diff --git a/app.py b/app.py")
    assert (done.remote, done.base_branch) == (str(remote), "main")


async def test_publish_again_is_the_same_commit(workspaces: GitWorkspaces, remote: Path, tmp_path: Path) -> None:
    """A repeat, by another process after a crash between push and record, pushes the identical commit."""
    checkpoint = await changed(workspaces, remote, {"new.txt": "a"})
    first = await workspaces.publish(str(remote), checkpoint, branch=BRANCH, message="m")

    again = await GitWorkspaces(tmp_path / "home").publish(str(remote), checkpoint, branch=BRANCH, message="m")

    assert first == again


async def test_publish_replaces_only_its_own(workspaces: GitWorkspaces, remote: Path, tmp_path: Path) -> None:
    """A revision takes the place of what was pushed from here; what somebody else pushed is not overwritten."""
    await published(workspaces, remote, {"new.txt": "a"})
    revised = await published(workspaces, remote, {"new.txt": "b"})
    assert git(remote, "rev-parse", BRANCH) == revised.commit
    (remote / "refs" / "heads" / "main.lock").touch()
    with pytest.raises(Transient, match=r"remove .*main\.lock"):
        await workspaces.merge(str(remote), base="main", head=BRANCH, message="m")

    git(tmp_path, "clone", "--quiet", "--branch", BRANCH, str(remote), "person")
    theirs = commit(tmp_path / "person", {"person.txt": "x"})
    git(tmp_path / "person", "push", "--quiet")

    with pytest.raises(Permanent, match="changed since") as refused:
        await published(workspaces, remote, {"new.txt": "c"})
    assert refused.value.slug == "push-refused"
    assert git(remote, "rev-parse", BRANCH) == theirs


async def test_publish_to_a_branch_that_is_locked(workspaces: GitWorkspaces, remote: Path) -> None:
    """Another git may be at it, or have died there: that is said, with what to remove, and tried again later."""
    await published(workspaces, remote, {"new.txt": "a"})
    lock = remote / "refs" / "heads" / f"{BRANCH}.lock"
    lock.touch()
    with pytest.raises(Transient, match=rf"remove .*{BRANCH}\.lock"):
        await published(workspaces, remote, {"new.txt": "b"})
    lock.unlink()
    revised = await published(workspaces, remote, {"new.txt": "b"})
    assert git(remote, "rev-parse", BRANCH) == revised.commit


async def test_publish_while_a_push_of_before_still_goes_on(workspaces: GitWorkspaces, remote: Path) -> None:
    """What moves the branch meanwhile is one of ours that outlived its process: it is replaced like what stood there
    before; somebody else's commit is not."""
    first = await published(workspaces, remote, {"new.txt": "1\n"})
    await published(workspaces, remote, {"new.txt": "2\n"})
    foreign = git(remote, "commit-tree", "-m", "theirs", "main^{tree}")
    for number, meanwhile in enumerate((first.commit, foreign)):
        moves = f"unset GIT_QUARANTINE_PATH\nrm $0\ngit update-ref refs/heads/{BRANCH} {meanwhile}\n"
        write(remote, {"hooks/pre-receive": f"#!/bin/sh\n{moves}"})
        (remote / "hooks/pre-receive").chmod(0o755)
        publishing = published(workspaces, remote, {"new.txt": f"again {number}\n"})
        if meanwhile == foreign:
            with pytest.raises(Permanent, match="was not pushed from here, or changed since"):
                await publishing
        else:
            assert (await publishing).commit == git(remote, "rev-parse", BRANCH)
    assert git(remote, "rev-parse", BRANCH) == foreign


async def test_nothing_to_publish(workspaces: GitWorkspaces, remote: Path) -> None:
    """A workspace that is as its base is not pushed, even where something was changed and changed back."""
    first = await workspaces.prepare(ENVIRONMENT, str(remote), base_branch="", bases=())
    await changed(workspaces, remote, {"new.txt": "a"})
    (first.workspace / "new.txt").unlink()
    checkpoint = await workspaces.checkpoint(ENVIRONMENT, "changed back")

    with pytest.raises(Permanent) as refused:
        await workspaces.publish(str(remote), checkpoint.commit, branch=BRANCH, message="m")
    assert refused.value.slug == "nothing-to-publish"


async def test_publish_a_merge_point(workspaces: GitWorkspaces, remote: Path) -> None:
    """Where a stage only brings two branches together, their merge is what is published."""
    await published(workspaces, remote, {"one.txt": "1"}, "cairn/one")
    await published(workspaces, remote, {"two.txt": "2"}, "cairn/two")
    made = await workspaces.prepare("joined", str(remote), base_branch="", bases=("cairn/one", "cairn/two"))

    done = await workspaces.publish(str(remote), made.commit, branch="cairn/joined", message="m")

    assert done.files_changed == 2
    assert set(git(remote, "ls-tree", "--name-only", "cairn/joined").splitlines()) >= {"one.txt", "two.txt"}


async def test_only_checkpoints_are_published(workspaces: GitWorkspaces, remote: Path) -> None:
    """A commit that is not here, or is no checkpoint, is refused."""
    made = await workspaces.prepare(ENVIRONMENT, str(remote), base_branch="", bases=())
    for commit_id in ("0" * 40, made.base_commit):
        with pytest.raises(Permanent) as refused:
            await workspaces.publish(str(remote), commit_id, branch=BRANCH, message="m")
        assert refused.value.slug == "checkpoint-missing"


async def test_publish_to_a_branch_that_is_checked_out(workspaces: GitWorkspaces, source: Path) -> None:
    """A branch that somebody has checked out is not changed under their feet; the message says what to do."""
    await published(workspaces, source, {"new.txt": "a"})
    git(source, "switch", "--quiet", BRANCH)

    with pytest.raises(Permanent, match="switch to another branch") as refused:
        await published(workspaces, source, {"new.txt": "b"})
    assert refused.value.slug == "push-refused"


async def test_a_hook_of_the_remote_says_no(workspaces: GitWorkspaces, remote: Path) -> None:
    """What the remote's own hook said is in the refusal."""
    hook = remote / "hooks/pre-receive"
    write(remote, {"hooks/pre-receive": "#!/bin/sh\necho 'only on weekdays' >&2\nexit 1\n"})
    hook.chmod(0o755)

    with pytest.raises(Permanent, match="only on weekdays") as refused:
        await published(workspaces, remote, {"new.txt": "a"})
    assert refused.value.slug == "push-refused"


async def test_a_long_diff_is_cut_with_a_note(workspaces: GitWorkspaces, remote: Path) -> None:
    """More than 4 MiB of diff ends with a note; the counts are of the whole."""
    lines = "".join(f"line {n} {'x' * 90}\n" for n in range(60_000))

    done = await published(workspaces, remote, {"big.txt": lines})

    assert len(done.diff) <= 4 * 1024 * 1024 + 200
    assert done.diff.endswith("the rest is left out]\n")
    assert done.lines_added == 60_000


# ---- merge


async def test_merge_makes_a_merge_commit(workspaces: GitWorkspaces, remote: Path) -> None:
    """The base gets a commit with both as parents; a repeat answers that commit."""
    done = await published(workspaces, remote, {"new.txt": "a"})
    main = git(remote, "rev-parse", "main")

    merge = partial(workspaces.merge, str(remote), base="main", head=BRANCH, message="Merge it", expected=done.commit)
    merged = await merge()

    assert git(remote, "rev-parse", "main") == merged
    assert git(remote, "log", "-1", "--format=%P %s", "main") == f"{main} {done.commit} Merge it"
    git(remote, "branch", "--quiet", "-D", BRANCH)
    assert await merge() == merged


async def test_merge_after_the_base_went_on(workspaces: GitWorkspaces, source: Path, remote: Path) -> None:
    """What others pushed to the base meanwhile stays; a later repeat still answers the merge that did it."""
    done = await published(workspaces, remote, {"new.txt": "a"})
    commit(source, {"other.txt": "o"})
    git(source, "push", "--quiet", str(remote), "main")

    merged = await workspaces.merge(str(remote), base="main", head=BRANCH, message="m", expected=done.commit)
    git(source, "pull", "--quiet", str(remote), "main")
    commit(source, {"after.txt": "o"})
    git(source, "push", "--quiet", str(remote), "main")

    assert set(git(remote, "ls-tree", "--name-only", merged).splitlines()) >= {"new.txt", "other.txt"}
    assert await workspaces.merge(str(remote), base="main", head=BRANCH, message="m") == merged


async def test_merges_of_several_branches_at_once(workspaces: GitWorkspaces, remote: Path) -> None:
    """Merges that race for one base all arrive: the slower ones are made again on top, as often as it takes."""
    names = ("one", "two", "three", "four", "five", "six")
    for name in names:
        await published(workspaces, remote, {f"{name}.txt": name}, f"cairn/{name}")

    await asyncio.gather(
        *(workspaces.merge(str(remote), base="main", head=f"cairn/{name}", message=name) for name in names)
    )

    assert set(git(remote, "ls-tree", "--name-only", "main").splitlines()) >= {f"{name}.txt" for name in names}


async def test_merge_conflict_names_the_files(workspaces: GitWorkspaces, source: Path, remote: Path) -> None:
    """Nothing is pushed where the two conflict."""
    await published(workspaces, remote, {"app.py": "ours"})
    theirs = commit(source, {"app.py": "theirs"})
    git(source, "push", "--quiet", str(remote), "main")

    with pytest.raises(Permanent, match=r"app\.py") as refused:
        await workspaces.merge(str(remote), base="main", head=BRANCH, message="m")
    assert refused.value.slug == "merge-conflict"
    assert git(remote, "rev-parse", "main") == theirs


async def test_merge_of_a_branch_that_moved(workspaces: GitWorkspaces, remote: Path, tmp_path: Path) -> None:
    """Commits that somebody added after the approval are not merged with it."""
    done = await published(workspaces, remote, {"new.txt": "a"})
    git(tmp_path, "clone", "--quiet", "--branch", BRANCH, str(remote), "person")
    commit(tmp_path / "person", {"person.txt": "x"})
    git(tmp_path / "person", "push", "--quiet")

    with pytest.raises(Permanent) as refused:
        await workspaces.merge(str(remote), base="main", head=BRANCH, message="m", expected=done.commit)
    assert refused.value.slug == "head-moved"


async def test_merge_of_branches_that_are_not_there(workspaces: GitWorkspaces, remote: Path) -> None:
    """An unknown base or head is named."""
    for base, head in (("main", "nowhere"), ("nowhere", "main")):
        with pytest.raises(Permanent, match="nowhere") as refused:
            await workspaces.merge(str(remote), base=base, head=head, message="m")
        assert refused.value.slug == "branch-not-found"


async def test_merge_into_a_checked_out_branch(workspaces: GitWorkspaces, source: Path) -> None:
    """A person's clean working tree follows the merge, with their untracked files left alone."""
    done = await published(workspaces, source, {"new.txt": "a"})
    write(source, {"untracked.txt": "mine"})

    await workspaces.merge(str(source), base="main", head=BRANCH, message="m", expected=done.commit)

    assert files_in(source) == {
        "README.md": "shop\n",
        "app.py": "print('hello')\n",
        "new.txt": "a",
        "untracked.txt": "mine",
    }
    assert git(source, "status", "--porcelain") == "?? untracked.txt"


async def test_merge_into_a_dirty_working_tree(workspaces: GitWorkspaces, source: Path) -> None:
    """Changes that a person has not committed are never touched: the merge is refused and says what to do."""
    await published(workspaces, source, {"new.txt": "a"})
    write(source, {"app.py": "in the middle of something"})

    with pytest.raises(Permanent, match="commit or stash") as refused:
        await workspaces.merge(str(source), base="main", head=BRANCH, message="m")
    assert refused.value.slug == "push-refused"
    assert (source / "app.py").read_text() == "in the middle of something"


# ---- HTTP and credentials


class _Server(SimpleHTTPRequestHandler):
    """A repository as plain files, for whoever shows the right user and password."""

    seen: list[tuple[str, str]] = []
    status = 401

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.seen.append((self.path, given))
        if given != "Basic " + base64.b64encode(b"x-access-token:s3cret").decode():
            self.send_response(self.status)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def http_url(remote: Path) -> Iterator[str]:
    git(remote, "update-server-info")
    _Server.seen, _Server.status = [], 401
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Server, directory=str(remote.parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/remote.git"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_missing_credentials_are_said_and_never_asked_for(workspaces: GitWorkspaces, http_url: str) -> None:
    """A repository that needs credentials is refused at once, with what to do."""
    for url in (http_url, http_url.replace("http://", "http://somebody:wrong@")):
        with pytest.raises(Permanent, match="give this host access") as refused:
            await workspaces.prepare(ENVIRONMENT, url, base_branch="", bases=())
        assert refused.value.slug == "repository-needs-credentials"
        assert "wrong" not in str(refused.value)


async def test_a_token_reaches_the_remote_and_no_file(http_url: str, tmp_path: Path) -> None:
    """A token from settings, or within the URL, opens the repository and is kept nowhere on the disk."""
    named = GitWorkspaces(tmp_path / "home", credentials=lambda url: "s3cret" if url == http_url else None)
    inside = http_url.replace("http://", "http://x-access-token:s3cret@")

    one = await named.prepare("shop-1", http_url, base_branch="", bases=())
    two = await GitWorkspaces(tmp_path / "home").prepare("shop-2", inside, base_branch="", bases=())

    assert files_in(one.workspace) == files_in(two.workspace)
    kept = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert kept == []
    assert len(list((tmp_path / "home/repositories").glob("*.git"))) == 1


@pytest.mark.parametrize(("status", "kind"), [(503, Transient), (429, Transient), (404, Permanent)])
async def test_what_a_server_says(workspaces: GitWorkspaces, http_url: str, status: int, kind: type[Exception]) -> None:
    """An overloaded server may answer later; one that does not know the repository will not."""
    _Server.status = status
    with pytest.raises(kind):
        await workspaces.prepare(ENVIRONMENT, http_url, base_branch="", bases=())
