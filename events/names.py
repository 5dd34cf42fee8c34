"""Names and identifiers: what may stand in a subject, and how ids are built from one another.

An id is one NATS subject token, readable by a person, and derived from what it belongs to, so that deciding
again gives the same id: task ``shop-7``, its run ``shop-7-development-1``, that run's call
``shop-7-development-1-c3``, the workspace ``shop-7-development``.

Names may hold ``-`` and digits themselves, so two things could be called the same: stage ``web-1-build`` of
``shop-7`` and stage ``build`` of ``shop-7-web-1``. ``prefixes_clash`` tells such prefixes apart, of which only one is
accepted. So every id belongs to one thing, also where upper and lower case are the same, as in some file systems.
"""

from __future__ import annotations

import re

from events.errors import Invalid

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}\Z")


def checked_name(value: str, what: str) -> str:
    """``value`` itself if it can name a ``what`` (project, stage, agent …), else ``Invalid``."""
    if not _NAME.match(value):
        message = f"{value!r} cannot name a {what}: use up to 63 letters, digits, '-' and '_', starting with a letter."
        raise Invalid(message, slug="invalid-name")
    return value


def prefixes_clash(one: str, other: str) -> bool:
    """Whether ids that begin with these prefixes could be the same: they are equal, or one begins as the ids of the
    other's stages do (``shop-7-web`` and ``shop``)."""
    shorter, longer = sorted((one.lower(), other.lower()), key=len)
    return shorter == longer or re.match(rf"{re.escape(shorter)}-[0-9]+-[a-z]", longer) is not None


def task_id(prefix: str, number: int) -> str:
    return f"{prefix}-{number}"


def run_id(task: str, stage: str, attempt: int) -> str:
    return f"{task}-{stage}-{attempt}"


def environment_id(task: str, stage: str) -> str:
    return f"{task}-{stage}"


def check_id(task: str, stage: str, attempt: int) -> str:
    """The call id of a gate's check; gates and agents share one workspace, so the ids must differ."""
    return f"{task}-{stage}-{attempt}-check"


def call_id(run: str, number: int) -> str:
    return f"{run}-c{number}"


def requested_call_id(environment: str, command: str) -> str:
    """Of a call that a person asked for with that command."""
    return f"{environment}-by-{command[:32]}"


def divergence_id(run: str, number: int) -> str:
    return f"{run}-d{number}"


def branch_name(task: str) -> str:
    return f"cairn/{task}"
