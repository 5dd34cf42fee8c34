"""Writes a workspace that came as a tar archive into a folder, and nowhere else."""

from __future__ import annotations

import io
import tarfile
import time
from pathlib import Path

from services.command_line.failures import FAILED, INVALID, Failure


def check_target(directory: Path) -> None:
    """Raises ``Failure`` where the folder is there and not empty."""
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        message = f"{directory} is not empty."
        raise Failure(message, hint="Name a folder that is empty or not there yet.", exit_code=INVALID)


def unpack(data: bytes, directory: Path) -> None:
    """Write the files of the archive. A file that would come to lie outside is refused, also by way of a link."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            archive.extractall(directory, filter=_kept_inside)
    except (tarfile.TarError, EOFError) as error:
        message = f"The workspace cannot be unpacked: {error}."
        raise Failure(message, exit_code=FAILED) from error
    except OSError as error:
        message = f"{directory} cannot be written ({error.strerror})."
        raise Failure(message, exit_code=FAILED) from error


def _kept_inside(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo:
    """Links of a workspace may lead anywhere, as they did in it; nothing is ever written through one."""
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        message = f"{member.name!r} is no file"
        raise tarfile.TarError(message)
    checked = tarfile.tar_filter(member, destination)
    return checked.replace(mtime=int(time.time()), deep=False)
