"""The image that holders run from, made where it is missing.

It is built through the engine from the Dockerfile in the product, with the holder's own sources. A label keeps their
digest, so that an image of another version is made anew rather than used. One without the label is the operator's own,
built from the same Dockerfile, and used as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
from pathlib import Path

import infra
from events.errors import Permanent
from infra.docker.engine import Conflicts, Engine, NotThere
from services.chaos import holder

DIGEST = "cairn.holder"
BUILD_SECONDS = 600.0
DOCKERFILE = "infra/deployment/faults/Dockerfile"
SOURCES = "services/chaos/holder"


def digest() -> str:
    """Of what the image is made from."""
    seen = hashlib.sha256()
    for name, content in _files():
        seen.update(f"{name} {len(content)}\n".encode() + content)
    return seen.hexdigest()


async def ensure(engine: Engine, image: str, base: str) -> None:
    """Have ``image`` in the engine, of the version that this program needs. Raises ``Permanent`` where it cannot be
    built, ``Transient`` where no engine answers."""
    wanted, before = digest(), ""
    try:
        found = await engine.request("GET", f"images/{image}/json")
        if (found["Config"].get("Labels") or {}).get(DIGEST, wanted) == wanted:
            return
        before = found["Id"]
    except NotThere:
        pass
    said = await engine.build(
        _context(), tag=image, dockerfile=DOCKERFILE, arguments={"BASE": base}, labels={DIGEST: wanted},
        seconds=BUILD_SECONDS,
    )  # fmt: skip
    for line in said.splitlines():
        error = json.loads(line).get("error") if line.strip() else None
        if error:
            message = (
                f"the image {image} could not be built from {base}: {error.strip()}. "
                f"Build it elsewhere from {DOCKERFILE} and load it, or set chaos.base_image."
            )
            raise Permanent(message, slug="no-fault-image")
    if before:
        # Conflicts: it has another name, or a holder still runs from it.
        with contextlib.suppress(NotThere, Conflicts):
            await engine.request("DELETE", f"images/{before}")


def _files() -> list[tuple[str, bytes]]:
    dockerfile = Path(infra.__file__).parent.parent / DOCKERFILE
    sources = sorted(Path(holder.__file__).parent.glob("*.py"))
    return [
        (DOCKERFILE, dockerfile.read_bytes()),
        *((f"{SOURCES}/{source.name}", source.read_bytes()) for source in sources),
    ]


def _context() -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in _files():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(content))
    return written.getvalue()
