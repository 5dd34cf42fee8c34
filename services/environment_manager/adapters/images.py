"""What a project's containers are made of: found, built or fetched.

A project names an image, or has one built from a Dockerfile of its repository. Where it says nothing, the repository's
dev container file (https://containers.dev/implementors/json_reference/) is followed as far as it names an image or what
to build; else the worker's own image is taken. What is built has the digest of all it was built from as its tag, so
that the same files are built once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from events.errors import Permanent, Transient
from events.sandboxes import DOCKERFILE
from infra.subprocesses import ended

if TYPE_CHECKING:
    from infra.docker.engine import Engine

logger = structlog.get_logger()

DEVELOPMENT_FILES = (".devcontainer/devcontainer.json", ".devcontainer.json")
BUILD_SECONDS = 1800.0
PULL_SECONDS = 1800.0
LAST_LINES = 15
BUILT = "cairn-built"

# Comments and commas too many, which JSON with Comments has, and texts, in which both may stand.
_COMMENTS = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/|,(?=\s*[}\]])', re.DOTALL)


async def image_of(engine: Engine, asked: str, workspace: Path, default: str) -> str:
    """The image for ``workspace``, which the engine has afterwards. Raises ``Permanent`` (``image-missing``,
    ``image-unbuildable``) and ``Transient``."""
    kind, _, path = asked.partition(":")
    if kind == DOCKERFILE:
        return await _built(workspace, {"dockerfile": path or "Dockerfile", "context": str(Path(path).parent)})
    image = asked
    if not image and (described := _development(workspace)) is not None:
        where, document = described
        build = document.get("build")
        if isinstance(build, dict):
            relative = where.parent.relative_to(workspace)
            names = {key: str(relative / str(build.get(key, value))) for key, value in _BUILD.items()}
            return await _built(workspace, names, build.get("args"))
        image = str(document.get("image", ""))
    image = image or default
    if not await engine.has_image(image):
        await _pull(engine, image)
    return image


_BUILD = {"dockerfile": "Dockerfile", "context": "."}


def _development(workspace: Path) -> tuple[Path, dict[str, Any]] | None:
    """The dev container file and what it says."""
    for name in DEVELOPMENT_FILES:
        path = workspace / name
        if not path.is_file():
            continue
        try:
            document = json.loads(_COMMENTS.sub(lambda match: match[1] or "", path.read_text()))
        except (ValueError, OSError) as error:
            message = f"{name} is no JSON that can be read: {error}. Mend it, or give the project an image."
            raise Permanent(message, slug="image-unbuildable") from error
        return (path, document) if isinstance(document, dict) else None
    return None


async def _pull(engine: Engine, image: str) -> None:
    logger.info("fetching an image", image=image)
    name, _, tag = image.partition("@")[0].rpartition(":")
    if not name or "/" in tag:
        name, tag = image, "latest"
    parameters = {"fromImage": name, "tag": image.partition("@")[2] or tag}
    try:
        async with asyncio.timeout(PULL_SECONDS):
            said = b"".join([piece async for piece in engine.stream("POST", "images/create", params=parameters)])
        why = re.findall(r'"error": ?"([^"]*)"', said.decode(errors="replace"))
    except (Permanent, Transient, TimeoutError) as error:
        why = [str(error) or f"not within {PULL_SECONDS:g} s"]
    if not await engine.has_image(image):
        reason = f" ({why[-1]})" if why else ""
        message = (
            f"the engine has no image {image!r} and cannot fetch it{reason}: `docker pull {image}`, or choose another "
            'image or isolation = "worktree": under [worker] in the settings of this host, or for the project.'
        )
        raise Permanent(message, slug="image-missing")


async def _built(workspace: Path, names: dict[str, str], arguments: object = None) -> str:
    """Build with the docker command line, unless that was done before with the same files."""
    dockerfile, context = (_inside(workspace, names[key]) for key in ("dockerfile", "context"))
    given = {str(key): str(value) for key, value in arguments.items()} if isinstance(arguments, dict) else {}
    digest = await asyncio.to_thread(_digest, dockerfile, context, given)
    image = f"{BUILT}:{digest[:32]}"
    options = [word for key, value in given.items() for word in ("--build-arg", f"{key}={value}")]
    command = ("docker", "build", "--tag", image, "--file", str(dockerfile), *options, str(context))
    logger.info("building an image", image=image, dockerfile=names["dockerfile"])
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={name: value for name, value in os.environ.items() if not name.startswith("CAIRN_")},
        )
    except OSError as error:
        message = f"images are built by the docker command line, which cannot be run here: {error}"
        raise Permanent(message, slug="image-unbuildable") from error
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), BUILD_SECONDS)
    except TimeoutError as error:
        message = f"{names['dockerfile']} was not built within {BUILD_SECONDS:g} s"
        raise Permanent(message, slug="image-unbuildable") from error
    finally:
        if process.returncode is None:
            process.kill()
            await ended(process)
    if process.returncode:
        last = "\n".join(printed.decode(errors="replace").strip().splitlines()[-LAST_LINES:])
        message = f"{names['dockerfile']} cannot be built:\n{last}"
        raise Permanent(message, slug="image-unbuildable")
    return image


def _inside(workspace: Path, name: str) -> Path:
    """The path of a file or folder of the repository. Raises ``Permanent`` for one that leads out of it."""
    path = Path(os.path.realpath(workspace / name))
    if not path.is_relative_to(os.path.realpath(workspace)):
        message = f"{name} leads out of the repository"
        raise Permanent(message, slug="image-unbuildable")
    if not path.exists():
        message = f"the repository has no {name} to build its image from"
        raise Permanent(message, slug="image-unbuildable")
    return path


def _digest(dockerfile: Path, context: Path, arguments: dict[str, str]) -> str:
    """Of everything that a build begins with; wherever the workspace lies."""
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode() + dockerfile.read_bytes())
    for path in sorted(context.rglob("*")):
        relative = path.relative_to(context)
        if ".git" not in relative.parts and path.is_file() and not path.is_symlink():
            digest.update(f"\0{relative}\0{path.stat().st_mode & 0o111}\0".encode() + path.read_bytes())
    return digest.hexdigest()
