"""Events in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from events import chaos, experiment, systems
from events.kernel import Event
from services.command_line.narration import sentence

GOLDEN = Path(__file__).parent.parent / "golden" / "events"
KINDS = [
    kind
    for module in (chaos, experiment, systems)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event and kind.__module__ == module.__name__
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_experiments_and_systems_are_told_in_sentences(kind: type[Event]) -> None:
    """None of their events is told by its bare fields."""
    (example,) = (json.loads(file.read_bytes()) for file in GOLDEN.glob(f"{kind.__name__}.*.json"))
    told, _ = sentence(example)
    assert not told.startswith(kind.__name__)


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
