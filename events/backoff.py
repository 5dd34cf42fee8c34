"""How long to wait for a provider that flinched."""

from __future__ import annotations

LONGEST_SECONDS = 600.0
# The share of the wait that chance adds at most, so that those who failed together do not come back together.
JITTER = 0.2


def backoff(before: int, *, first_seconds: float, least_seconds: float, jitter: float) -> float:
    """Seconds after so many failures ``before`` this one: min(2ⁿ · first, 600), at least what the provider asked for,
    a little longer by ``jitter`` (0–1)."""
    seconds: float = min(2 ** min(before, 60) * first_seconds, LONGEST_SECONDS)
    return max(seconds, least_seconds) * (1 + JITTER * jitter)
