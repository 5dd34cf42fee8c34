"""The chain of bundles: short, whole, and never ahead of what the log tells; what moves, and what is lost by it."""

from __future__ import annotations

from events.content import Stored
from events.environment import (
    ENVIRONMENT,
    CheckpointBundled,
    Environment,
    EnvironmentMoved,
    EnvironmentRemoved,
    ToolCallCompleted,
    ToolCallStarted,
    WorkspaceDiverged,
)
from events.kernel import Event, replace
from services.environment_manager.bundles import plan
from services.environment_manager.deciders import environment as decider
from tests.unit.environment_twins import PREPARED

CONTENT = Stored(digest="d", size_bytes=1)
MOVED = EnvironmentMoved(host="there", from_host="here", checkpoint="c1b", tree="t1", workspace="/w")


def bundled(checkpoint: str, base: str = "", weight: int = 1) -> CheckpointBundled:
    return CheckpointBundled(checkpoint=checkpoint, base=base, content=CONTENT, weight=weight)


def completed(call: str, checkpoint: str) -> ToolCallCompleted:
    return ToolCallCompleted(
        call_id=call, run_id="r", tool="shell", duration_ms=1, checkpoint=checkpoint, tree=f"t{checkpoint}"
    )


def environment(*events: Event) -> Environment:
    return ENVIRONMENT.fold("e", (replace(PREPARED, bundled=True), bundled("c0"), *events))


def test_chain_of_ten_thousand_is_short_and_loses_none() -> None:
    """Bundles of one weight are put together like the digits of a number."""
    state, longest, stored = environment(), 0, 0
    for number in range(1, 10_000):
        kept, weight = plan(state.bundles)
        base = state.bundles[kept - 1].checkpoint if kept else ""
        state = ENVIRONMENT.evolve(state, bundled(f"c{number}", base, weight))
        longest, stored = max(longest, len(state.bundles)), stored + weight
        assert sum(item.weight for item in state.bundles) == number + 1
    assert longest <= 35
    assert stored < 5 * 10_000


def test_bundle_that_does_not_fit_is_not_named() -> None:
    """Its base must be in the chain; what is bundled already is not said again."""
    state = environment(bundled("c1", "c0"))
    assert decider.bundle(state, bundled("c3", "c2")) == ()
    assert decider.bundle(state, bundled("c1", "c0")) == ()
    assert decider.bundle(state, bundled("c2", "c1")) != ()


def test_calls_are_unbundled_until_their_checkpoint_is_named() -> None:
    """A bundle carries the checkpoints up to its own."""
    state = environment(completed("k1", "c1"), completed("k2", "c2"), completed("k3", "c3"), bundled("c2", "c0"))
    assert [call for call, _ in state.unbundled] == ["k3"]
    assert state.bundled == "c2"


def test_checkpoint_that_is_not_bundled_is_on_its_host_alone() -> None:
    """What begins with it has to begin there, also when its environment was removed."""
    assert environment(completed("k1", "c1"), EnvironmentRemoved()).only_on == "here"
    assert environment(completed("k1", "c1"), bundled("c1", "c0"), EnvironmentRemoved()).only_on == ""


def test_environment_moves_with_everything() -> None:
    """What ran on the old host ran elsewhere from now on; nothing else changes."""
    started = ToolCallStarted(call_id="k2", run_id="r", tool="shell")
    state = environment(completed("k1", "c1"), bundled("c1", "c0"), started)
    events = decider.move(state, MOVED, restored="c1")
    assert events == (MOVED,)
    state = ENVIRONMENT.fold_onto(state, events)
    assert (state.host, state.checkpoint, state.elsewhere) == ("there", "c1b", frozenset({"k2"}))


def test_changes_that_were_not_bundled_are_a_divergence() -> None:
    """Two finished calls went with the host: nobody goes on before somebody chose."""
    state = environment(completed("k1", "c1"), bundled("c1", "c0"), completed("k2", "c2"), completed("k3", "c3"))
    moved, diverged = decider.move(state, MOVED, restored="c1")
    assert moved == replace(MOVED, lost_calls=("k2", "k3"))
    assert diverged == WorkspaceDiverged(kind="checkpoint", expected="c3", found="c1b")


def test_environment_that_went_on_does_not_move() -> None:
    """Its host is not gone after all, or another one was faster."""
    state = environment(completed("k1", "c1"), bundled("c1", "c0"))
    assert decider.move(state, MOVED, restored="c0") == ()
    assert decider.move(ENVIRONMENT.evolve(state, MOVED), MOVED, restored="c1") == ()
