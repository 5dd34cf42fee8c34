"""A Python that runs in any image: the interpreter of this process with all that it needs, in a folder to be mounted.

The shim is the first process of every container, whatever its image holds: no Python perhaps, or another C library.
So it brings its own interpreter, standard library, shared libraries and the loader that puts them together::

    <home>/runtime/<digest>/ld.so --library-path <…>/lib <…>/bin/python -I -S -E …

``bin`` and ``lib`` are laid out as Python expects to find itself. The folder is made once, beside its place and then
renamed, so that a crash leaves nothing half made.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import services
from events.errors import Permanent
from services.environment_manager import shim

INSIDE = "/cairn"
_LEFT_OUT = (
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "dist-packages"),
    *("pydoc_data", "distutils", "config-*", "*.a", "_tkinter*", "_test*", "xxlimited*"),
)
_LINE = re.compile(r"(?:\S+ => )?(/\S+) \(0x")
_START = (
    "import sys; sys.path.append(sys.argv.pop(1));"
    "from services.environment_manager.shim.server import main_in_container; main_in_container()"
)


def command(directory: str) -> list[str]:
    """What starts the shim of ``directory`` where the runtime is mounted at ``INSIDE``."""
    python = [f"{INSIDE}/ld.so", "--library-path", f"{INSIDE}/lib", f"{INSIDE}/bin/python"]
    return [*python, "-I", "-S", "-E", "-c", _START, f"{INSIDE}/source", directory]


def provide(home: Path) -> Path:
    """The folder of this interpreter's runtime, made where it is not there. Blocks for a second or two then; raises
    ``Permanent`` (``runtime-missing``) where this host has no ``ldd``."""
    source = Path(shim.__file__).parent
    digest = hashlib.sha256(f"{sys.version} {sys.base_prefix}".encode())
    for path in sorted(source.glob("*.py")):
        digest.update(path.read_bytes())
    place = home / "runtime" / digest.hexdigest()[:16]
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".making-", dir=place.parent))
    try:
        _make(made, source)
        made.chmod(0o755)
        if not place.is_dir():
            made.rename(place)
    except (OSError, subprocess.CalledProcessError) as error:
        message = f"the runtime of containers cannot be made in {place.parent}: {error}"
        raise Permanent(message, slug="runtime-missing") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return place


def _make(place: Path, source: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = Path(os.path.realpath(sys.executable))
    (place / "bin").mkdir()
    shutil.copy(python, place / "bin" / "python")
    shutil.copytree(library, place / "lib" / version, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    modules = sorted((place / "lib" / version).rglob("*.so"))
    for needed in _shared([python, *modules]):
        if needed.name.startswith("ld-"):
            shutil.copy(needed, place / "ld.so")
        else:
            shutil.copy(needed, place / "lib" / needed.name)
    package = place / "source" / "services" / "environment_manager"
    shutil.copytree(source, package / "shim", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (Path(services.__file__).parent, source.parent):
        relative = folder.relative_to(Path(services.__file__).parent.parent)
        (place / "source" / relative / "__init__.py").write_text("")


def _shared(files: list[Path]) -> set[Path]:
    """The shared libraries that ``files`` are put together with on this host, and the loader, by ldd(1)."""
    printed = subprocess.run(("ldd", *files), capture_output=True, text=True, check=False).stdout
    found = {Path(match[1]) for line in printed.splitlines() if (match := _LINE.match(line.strip()))}
    if not any(path.name.startswith("ld-") for path in found):
        message = "ldd names no loader: this interpreter is not put together dynamically"
        raise Permanent(message, slug="runtime-missing")
    return {path for path in found if path.exists()}
