"""Events in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.command_line.narration import sentence

GOLDEN = Path(__file__).parent.parent / "golden" / "events"


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.json")), ids=lambda file: file.stem)
def test_every_event_is_told_in_a_sentence(file: Path) -> None:
    """None is told by its bare fields."""
    example = json.loads(file.read_bytes())
    told, _ = sentence(example)
    assert not told.startswith(example["type"])


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (
            {"type": "FaultIntended", "fault_id": "x1-f2", "step": 2, "fault": {"kind": "drop_network"},
             "containers": ["api"], "peers": ["worker-1"], "ends_at": "2026-05-01T12:00:20Z"},
            "drop_network on api towards worker-1 until ",
        ),
        (
            {"type": "SteadyStateProbed", "phase": "before", "met": False,
             "probes": [{"name": "health", "held": False, "detail": "503"}, {"name": "jobs", "held": True}]},
            "steady state before the method: health did not hold: 503",
        ),
        ({"type": "SamplesRecorded", "probe": "status", "count": 12}, "status: 0 of 12 samples did not hold"),
        ({"type": "StepEnded", "step": 1, "name": "load", "succeeded": True}, "step 1 done"),
    ],
)  # fmt: skip
def test_what_experiments_say(event: dict[str, object], told: str) -> None:
    """With what was left out on the wire, since it is the default, too."""
    assert sentence(event)[0].startswith(told)
