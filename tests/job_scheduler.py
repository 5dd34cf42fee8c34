"""The job scheduler of ``tests/systems``, as a repository of its own: as it should be, or with its planted bug."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.engine import BASE_IMAGE
from tests.integration import git_examples

SYSTEMS = Path(__file__).parent / "systems"
SYSTEM = SYSTEMS / "job_scheduler"
PATCH = SYSTEMS / "job_scheduler_broken.patch"


def files() -> dict[str, str]:
    """Every file of the system by its path."""
    paths = [path.relative_to(SYSTEM) for path in sorted(SYSTEM.rglob("*")) if path.is_file()]
    made = {path for path in paths if any(part.startswith((".", "__pycache__")) for part in path.parts)}
    return {str(path): (SYSTEM / path).read_text(encoding="utf-8") for path in paths if path not in made}


def repository(folder: Path, *, broken: bool = False, database_image: str = "postgres:17") -> Path:
    """A git repository of it on ``main``, which names the images that can be had where there is no registry."""
    images = {".env": f"BASE={BASE_IMAGE}\nPOSTGRES_IMAGE={database_image}\n"}
    made = git_examples.repository(folder, files() | images)
    if broken:
        git_examples.git(made, "apply", str(PATCH))
        git_examples.commit(made, {}, "Start less")
    return made


def patched_line() -> str:
    """The one line that the patch takes out."""
    removed = [line[1:] for line in PATCH.read_text().splitlines() if line.startswith("-") and line[1:2] == " "]
    assert len(removed) == 1
    return removed[0]


def own_tests(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "unittest"], cwd=folder, capture_output=True, text=True, timeout=30, check=False
    )
