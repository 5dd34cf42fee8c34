"""Taking over what lives on a host that is gone, where that cannot be: whoever waits is told."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from events.content import Inline
from events.envelope import CommandEnvelope
from events.environment import ENVIRONMENT, EnvironmentPreparationFailed, ExecuteTool, PublishBranch
from events.kernel import Command, replace
from events.task import RecordCheck
from infra.clock import SystemClock
from infra.entities import Cause
from infra.hosts import Hosts
from infra.memory.host_registry import MemoryHostRegistry
from services.environment_manager.moving import Moving
from tests.unit.environment_twins import PREPARED, Environments
from tests.unit.test_hosts import Moved

PUBLISH = PublishBranch(task_id="shop-1", stage="publish", check_id="k1", commit="c0", title="", description="")
CHECK = ExecuteTool(
    call_id="k1", run_id="k1", task_id="shop-1", tool="shell", arguments=Inline("{}"), effects="workspace"
)


@pytest.mark.parametrize(
    ("command", "stage"),
    [(PUBLISH, "publish"), (replace(CHECK, check_stage="test"), "test"), (replace(CHECK, run_id="shop-1-test-1"), "")],
)
async def test_check_without_a_workspace_is_answered(tmp_path: Path, command: Command, stage: str) -> None:
    """Of a gate that would wait for ever otherwise, its check could not be evaluated; a run hears it from the log."""
    environments = Environments(tmp_path)
    plumbing, clock = environments.plumbing, Moved()
    there = replace(PREPARED, host="there", bundled=True)
    await plumbing.environments.decide(environments.id, Cause(id="prepared"), lambda state: (there,))
    environments.processes.broken.add(environments.id)
    hosts = Hosts(MemoryHostRegistry(clock), clock, own="here", lease_seconds=15.0)
    clock.by = timedelta(hours=1)
    envelope = CommandEnvelope(
        id="m",
        tenant="default",
        entity="environment",
        entity_id=environments.id,
        time=SystemClock().now(),
        command=command,
    )
    assert not await Moving(plumbing, environments.executor, hosts).is_here(envelope)
    (failed,) = (await environments.memory.log.load(ENVIRONMENT.name, environments.id))[-1].envelope.events
    assert isinstance(failed, EnvironmentPreparationFailed)
    assert failed.detail == "its host there is gone, and it cannot be taken over: its shim cannot be started"
    reports = [sent.command for sent in environments.bus.sent if isinstance(sent.command, RecordCheck)]
    assert [(report.stage, report.check_id, report.passed) for report in reports] == [(stage, "k1", None)] * bool(stage)
    assert all(failed.detail in report.summary for report in reports)
